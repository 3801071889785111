"""Pascal VOC as it occurs in the wild, by hand."""

import json
import zipfile

import pytest
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import NothingLeft, Options
from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, voc, write

BOX = ("cat", 10, 20, 30, 60, "")


def shade(path, value):
    """An image with content of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (200, 100), value).save(path)
    return path


def devkit(home, names, images=None, **lists):
    """Annotations, JPEGImages and the lists of ImageSets/Main."""
    for i, name in enumerate(names):
        shade(home / "JPEGImages" / f"{(images or {}).get(name, name)}.jpg", 5 * i + len(home.name) + len(names))
        write(home / "Annotations" / f"{name}.xml", voc(f"{name}.jpg", BOX))
    for name, rows in lists.items():
        write(home / "ImageSets" / "Main" / f"{name}.txt", rows)
    return home


def report(out):
    return json.loads((out / "conversion_report.json").read_text())


def test_blanks_in_the_name_floats_and_no_difficult(tmp_path):
    picture(tmp_path / "set" / "a image (1).jpg")
    write(tmp_path / "set" / "a image (1).xml", voc("a image (1).jpg", ("cat", 10.5, 20, 30.25, 60, "")))
    _, found, data = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert found == {"a image (1).jpg": [("cat", 10.5, 20, 19.75, 40)]}
    assert data["annotations"][0]["iscrowd"] == 0 and data["annotations"][0]["area"] == 790
    assert (tmp_path / "out" / "images" / "train" / "a image (1).jpg").is_file()


def test_corners_count_from_one_only_when_asked_for(tmp_path):
    write(tmp_path / "set" / "a.xml", voc("a.jpg", ("cat", 1, 1, 200, 100, "")))
    _, found, _ = converted(tmp_path / "set", tmp_path / "plain", "voc")
    assert found == {"a.jpg": [("cat", 1, 1, 199, 99)]}
    _, found, _ = converted(tmp_path / "set", tmp_path / "inclusive", "voc", voc_corners="inclusive")
    assert found == {"a.jpg": [("cat", 0, 0, 200, 100)]}
    one_pixel = voc("b.jpg", ("cat", 7, 8, 7, 8, ""), ("cat", 1, 1, 5, 5, ""))
    write(tmp_path / "dot" / "b.xml", one_pixel)
    _, found, _ = converted(tmp_path / "dot", tmp_path / "dot_out", "voc", voc_corners="inclusive")
    assert found["b.jpg"][0] == ("cat", 6, 7, 1, 1)
    result, found, _ = converted(tmp_path / "dot", tmp_path / "dot_plain", "voc")
    assert result.left_out("boxes") == {"no area": 1} and len(found["b.jpg"]) == 1


def test_a_size_of_0_or_none_is_that_of_the_image(tmp_path):
    for name, size in (("zero", (0, 0)), ("none", None)):
        picture(tmp_path / "set" / f"{name}.png")
        write(tmp_path / "set" / f"{name}.xml", voc(f"{name}.png", ("cat", 150, 10, 190, 60, ""), size=size))
    _, found, data = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert {(image["width"], image["height"]) for image in data["images"]} == {(200, 100)}
    assert all(rows == [("cat", 150, 10, 40, 50)] for rows in found.values())


def test_all_years_are_taken_and_their_splits_joined(tmp_path):
    devkit(tmp_path / "VOCdevkit" / "VOC2007", ["1", "2"], train="1\n", val="2\n", trainval="1\n2\n")
    devkit(tmp_path / "VOCdevkit" / "VOC2012", ["1", "3", "4"], train="1\n3\n", val="4\n")
    result, found, _ = converted(tmp_path / "VOCdevkit", tmp_path / "out", "voc")
    assert result.images == {"train": 3, "val": 2}
    assert list(found) == ["VOC2007/1.jpg", "VOC2012/1.jpg", "3.jpg"]  # apart by year where a name occurs in two
    assert result.left_out("split lists") == {"union of train and val": 1}


def test_what_is_in_no_list_or_not_there_is_counted(tmp_path):
    home = devkit(tmp_path / "VOC2012", ["a", "b", "c"], train="b\n", val="a\nmissing\n")
    picture(home / "JPEGImages" / "without.jpg")
    result, found, _ = converted(home, tmp_path / "out", "voc", split="val")
    assert result.images == {"train": 1, "val": 1} and list(found) == ["a.jpg"]
    assert result.left_out("annotation files") == {"listed and not there": 1, "in no list that was taken": 1}
    assert result.left_out("images") == {"no record names it": 2}
    assert any("val.txt, line 2: missing" in entry["where"] for entry in report(tmp_path / "out")["listed"])


@pytest.mark.parametrize(
    "row",
    ["p0.jpg", "p0.xml", "p0  1", "p0 -1", "p0\t0", "JPEGImages/p0.jpg", "./Annotations/p0.xml", "p0.jpg p0.xml",
     "/content/VOCdevkit/VOC2012/JPEGImages/p0.jpg", "C:\\data\\JPEGImages\\p0.jpg", "\ufeffp0", "p0\r", '"p0"',
     "VOC2012/JPEGImages/p0", "./JPEGImages/p0.jpg ./Annotations/p0.xml", "\n\n  p0  \n"],
)  # fmt: skip
def test_rows_of_a_list_in_the_forms_that_tools_write(tmp_path, row):
    home = devkit(tmp_path / "VOC2012", ["p0", "p1"], train=f"{row}\n", val="p1\n")
    assert converted(home, tmp_path / "out", "voc")[0].images == {"train": 1, "val": 1}


def test_a_flag_is_left_off_only_where_the_name_without_it_is_there(tmp_path):
    home = devkit(tmp_path / "set", ["frame 1", "frame", "last 0"], train="frame 1\nlast 0 1\n", val="frame\n")
    result, found, _ = converted(home, tmp_path / "out", "voc")
    assert result.images == {"train": 2, "val": 1} and list(found) == ["frame 1.jpg", "last 0.jpg"]


@pytest.mark.parametrize(
    ("lists", "images"),
    [
        ({"Train": "a\n", "Validation": "b\n"}, {"train": 1, "val": 1}),
        ({"TRAINING": "a\n", "dev": "b\n"}, {"train": 1, "val": 1}),
        ({"trainval": "a\n", "test": "b\n"}, {"train": 1, "test": 1}),
        ({"train": "a\n", "Night 3": "b\n"}, {"train": 1, "Night 3": 1}),
        ({"default": "a\nb\n"}, {"train": 2}),
        ({"train": "a\n", "default": "b\n"}, {"train": 1, "default": 1}),
        ({"train": "a\n", "val": "b\n", "cat_train": "a 1\n", "cat_val": "b -1\n"}, {"train": 1, "val": 1}),
        ({"train2012": "a\n", "val2012": "b\n"}, {"train": 1, "val": 1}),
    ],
)  # fmt: skip
def test_every_list_is_a_split(tmp_path, lists, images):
    home = devkit(tmp_path / "set", ["a", "b"], **lists)
    assert converted(home, tmp_path / "out", "voc")[0].images == images


def test_a_list_without_an_entry_that_is_there_is_an_error_that_names_it(tmp_path):
    for i, rows in enumerate(("", "x\ny\n")):
        home = devkit(tmp_path / f"set{i}", ["a"], train="a\n", test=rows)
        with pytest.raises(DataError, match=r"test\.txt: no row names an XML file .* split test would be empty"):
            converted(home, tmp_path / "out", "voc")


@pytest.mark.parametrize("second", ["a\nb\n", "b\na.jpg\n"])
def test_an_image_in_two_lists_is_refused_with_both_lines(tmp_path, second):
    home = devkit(tmp_path / "set", ["a", "b"], train="a\n", val=second)
    with pytest.raises(
        DataError, match=r"val\.txt, line \d: 'a.*' is listed a second time, after .*train\.txt, line 1"
    ):
        converted(home, tmp_path / "out", "voc")


def test_lists_beside_the_annotations_count_where_there_is_no_imagesets(tmp_path):
    home = devkit(tmp_path / "set", ["a", "b"])
    write(home / "train_list.txt", "JPEGImages/a.jpg Annotations/a.xml\n")
    write(home / "val_list.txt", "JPEGImages/b.jpg Annotations/b.xml\n")
    write(home / "test.txt", "notes about a test\n")
    result = converted(home, tmp_path / "out", "voc")[0]
    assert result.images == {"train": 1, "val": 1}
    assert result.left_out("split lists") == {"its rows name no XML file": 1}
    write(home / "test.txt", "/data/c.jpg\n")
    with pytest.raises(DataError, match=r"test\.txt: no row names an XML file"):
        converted(home, tmp_path / "out2", "voc")


def test_vott_has_lists_of_single_classes_alone(tmp_path):
    lists = {
        "cat_train": "a.jpg 1\nb.jpg -1",
        "dog_train": "a.jpg -1\nb.jpg 1\nc.jpg 1",
        "cat_val": "d.jpg -1",
        "dog_val": "",
    }
    home = devkit(tmp_path / "set", ["a", "b", "c", "d"], **lists)
    assert converted(home, tmp_path / "out", "voc")[0].images == {"train": 3, "val": 1}
    home = devkit(tmp_path / "whole", ["a", "b"], cat="a.jpg 1\nb.jpg -1", dog="a.jpg -1\nb.jpg 1")
    result = converted(home, tmp_path / "out2", "voc")[0]
    assert result.images == {"train": 2} and result.left_out("split lists") == {"list of one class": 2}
    lists = {"cat_train": "a 1", "dog_train": "a 1", "cat_val": "a 1"}
    with pytest.raises(DataError, match="listed a second time"):
        converted(devkit(tmp_path / "twice", ["a"], **lists), tmp_path / "out3", "voc")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("train/{}.xml", "train/{}.jpg"), ("Train/Annotations/{}.xml", "Train/JPEGImages/{}.jpg"),
     ("Annotations/Train/{}.xml", "JPEGImages/Train/{}.jpg"),
     ("data/annotations/train/{}.xml", "data/images/train/{}.jpg"),
     ("train/labels/{}.xml", "train/images/{}.jpg"), ("annotations/training/{}.xml", "images/{}.jpg")],
)  # fmt: skip
def test_split_folders_at_any_depth(tmp_path, annotations, images):
    for split, name in (("train", "a"), ("val", "b")):
        for path in (annotations, images):
            path = path.format(name).replace("training", split).replace("train", split)
            path = path.replace("Train", "Validation" if split == "val" else "Train")
            if path.endswith(".jpg"):
                shade(tmp_path / "set" / path, 40 * len(split))
            else:
                write(tmp_path / "set" / path, voc(f"{name}.jpg", BOX))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert result.images == {"train": 1, "val": 1} and list(found) == ["a.jpg"]
    assert not result.left_out("images")


def test_equal_names_in_several_folders_are_different_images(tmp_path):
    for i, where in enumerate(("cam1", "cam2")):
        shade(tmp_path / "set" / where / "0000.png", 50 * i)
        write(tmp_path / "set" / where / "0000.xml", voc("0000.png", ("cat", 10 + i, 20, 30, 60, "")))
        shade(tmp_path / "deep" / where / "images" / "0000.png", 50 * i)
        write(tmp_path / "deep" / where / "Annotations" / "0000.xml", voc("0000.png", ("cat", 10 + i, 20, 30, 60, "")))
    for source in ("set", "deep"):
        _, found, _ = converted(tmp_path / source, tmp_path / f"{source}_out", "voc")
        assert found == {"cam1/0000.png": [("cat", 10, 20, 20, 40)], "cam2/0000.png": [("cat", 11, 20, 19, 40)]}
        for i, where in enumerate(("cam1", "cam2")):
            made = Image.open(tmp_path / f"{source}_out" / "images" / "train" / where / "0000.png")
            assert made.getpixel((0, 0)) == 50 * i
    (tmp_path / "set" / "cam1" / "0000.png").unlink()  # and cam2's is not taken for it
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert list(found) == ["cam2/0000.png"] and result.left_out("records") == {"image missing": 1}


def test_an_annotation_belongs_to_the_image_of_its_own_name_and_a_contradiction_is_said(tmp_path):
    for i, name in enumerate("abc"):
        shade(tmp_path / "set" / "JPEGImages" / f"{name}.jpg", 50 * i)
        write(tmp_path / "set" / "Annotations" / f"{name}.xml", voc(f"{'bca'[i]}.jpg", ("cat", 10 + i, 20, 30, 60, "")))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert [found[f"{name}.jpg"][0][1] for name in "abc"] == [10, 11, 12]
    assert result.changed == {"the annotation file's own name used, not the other name written in it": 3}
    (tmp_path / "set" / "JPEGImages" / "a.jpg").unlink()  # b.jpg, which a.xml names, is that of b.xml
    result, found, _ = converted(tmp_path / "set", tmp_path / "out2", "voc")
    assert list(found) == ["b.jpg", "c.jpg"] and result.left_out("records") == {"image missing": 1}


def test_the_name_in_the_file_is_used_and_said_where_no_image_has_the_files_own(tmp_path):
    shade(tmp_path / "set" / "images" / "photo.JPG", 9)
    write(tmp_path / "set" / "annotations" / "1.xml", voc("/home/ann/photo.JPG", BOX))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert list(found) == ["photo.JPG"]
    assert result.changed == {"no image has the annotation file's own name: the name written in it used": 1}


def test_names_without_an_ending_and_with_another_one(tmp_path):
    for name, said in (("a", "a"), ("b", "b.jpeg"), ("c.d", "c.d"), ("e.jpg", "e.jpg")):
        picture(tmp_path / "set" / f"{name.removesuffix('.jpg')}.png")
        write(tmp_path / "set" / f"{name}.xml", voc(said, BOX))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert list(found) == ["a.png", "b.png", "c.d.png", "e.png"] and not result.changed


def test_images_given_by_their_folder_are_found_by_the_files_own_names(tmp_path):
    for i, name in enumerate("ab"):
        shade(tmp_path / "pics" / f"{name}.jpg", i)
        write(tmp_path / "set" / f"{name}.xml", voc("b.jpg", ("cat", 10 + i, 20, 30, 60, "")))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc", images=tmp_path / "pics")
    assert [row[0][1] for row in found.values()] == [10, 11]
    assert list(result.changed.values()) == [1]


def test_objects_without_a_box_are_counted_and_turned_and_outlined_ones_have_the_box_around_them(tmp_path):
    xml = """<annotation><filename>a.jpg</filename><size><width>200</width><height>100</height></size>
    <object><name>person</name><bndbox><ymax>60</ymax><xmax>30</xmax><ymin>20</ymin><xmin>10</xmin></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part></object>
    <object><name>ship</name><type>robndbox</type><robndbox><cx>100</cx><cy>50</cy><w>20</w><h>40</h>
    <angle>1.570796326794897</angle></robndbox></object>
    <object><name>leaf</name><polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>4</y2><x3>5</x3><y3>22</y3></polygon></object>
    <object><name>roof</name><polygon><pt><x>3</x><y>4</y></pt><pt><x>13</x><y>8</y></pt></polygon></object>
    <object><name>tag</name></object><object><name>empty</name><bndbox/></object>
    <object><name>gone</name><deleted>1</deleted><bndbox><xmin>1</xmin></bndbox></object>
    <object><name>two</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>
    <bndbox><xmin>11</xmin><ymin>1</ymin><xmax>15</xmax><ymax>5</ymax></bndbox></object>
    <object><name>swapped</name><bndbox><xmin>50</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>
    <object><name>cvat</name><attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>
    <bndbox><xmin>40</xmin><ymin>40</ymin><xmax>80</xmax><ymax>60</ymax></bndbox></object></annotation>"""
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.xml", xml)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    rows = [(name, *(pytest.approx(value) for value in box)) for name, *box in (
        ("person", 10, 20, 20, 40), ("ship", 80, 40, 40, 20), ("leaf", 1, 2, 8, 20), ("roof", 3, 4, 10, 4),
        ("two", 1, 1, 4, 4), ("two", 11, 1, 4, 4), ("cvat", 50, 30, 20, 40))]  # fmt: skip
    assert found["a.jpg"] == rows
    assert result.left_out("boxes") == {
        "<object> without a box": 2, "an object that was deleted": 1, "negative width or height": 1,
    }  # fmt: skip
    assert result.changed == {"turned box: the upright box around it": 2, "outline: the box around it": 2}
    write(tmp_path / "set" / "a.xml", xml.replace("1.570796326794897", "90"))
    with pytest.raises(DataError, match=r"a\.xml, object 2: angle is 90; it should be in radians"):
        converted(tmp_path / "set", tmp_path / "out2", "voc")


def test_a_difficult_object_is_ignored_in_evaluation_and_comes_back_as_difficult(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.xml", voc("a.jpg", BOX, ("cat", 50, 20, 90, 60, "<difficult>1</difficult>")))
    result, _, data = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert result.changed == {"difficult object, trained on and ignored in evaluation": 1}
    easy, hard = data["annotations"]
    assert (hard["difficult"], hard.get("ignore", 0), hard["iscrowd"]) == (1, 0, 0)
    assert not easy.keys() & {"difficult", "ignore"}
    convert(tmp_path / "out", tmp_path / "voc", read="coco", write="voc", options=Options(progress=False))
    _, _, again = converted(tmp_path / "voc", tmp_path / "again", "voc")
    assert again["annotations"] == data["annotations"]


def test_xml_of_other_kinds_in_the_folder_is_counted(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.xml", voc("a.jpg", BOX))
    write(tmp_path / "set" / "annotations.xml", '<annotations><image id="0" name="a.jpg"/></annotations>')
    write(tmp_path / "set" / "pom.xml", "<project/>")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert list(found) == ["a.jpg"]
    assert result.left_out("annotation files") == {"CVAT's XML (--from cvat)": 1, "no <annotation> in it": 1}
    (tmp_path / "set" / "a.xml").unlink()
    with pytest.raises(NothingLeft, match="2 left out"):
        converted(tmp_path / "set", tmp_path / "out2", "voc")
    with pytest.raises(DataError, match="--from cvat"):
        converted(tmp_path / "set" / "annotations.xml", tmp_path / "out3", "voc")


def test_the_label_list_of_cvat_gives_the_classes_without_the_background(tmp_path):
    home = devkit(tmp_path / "set", ["a"], default="a\n")
    rows = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,2,3::\ncat:4,5,6:ear:\n"
    write(home / "labelmap.txt", rows)
    result, _, data = converted(home, tmp_path / "out", "voc")
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "dog"), (2, "cat")]
    assert result.left_out("classes") == {"background, which has no boxes": 1}


def test_archives_and_linked_folders_are_named(tmp_path):
    devkit(tmp_path / "real", ["a", "b"])
    (tmp_path / "set").mkdir()
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(DataError, match="'Annotations' was not entered: --follow-links"):
        converted(tmp_path / "set", tmp_path / "out", "voc")
    assert converted(tmp_path / "set", tmp_path / "out", "voc", follow_links=True)[0].images == {"train": 2}
    (tmp_path / "zips").mkdir()
    with zipfile.ZipFile(tmp_path / "zips" / "export.zip", "w") as archive:
        archive.writestr("a.xml", voc("a.jpg", BOX))
    with pytest.raises(DataError, match=r"export\.zip is an archive: unzip it"):
        converted(tmp_path / "zips", tmp_path / "out2", "voc")
    with pytest.raises(DataError, match="Unzip it"):
        converted(tmp_path / "zips" / "export.zip", tmp_path / "out2", "voc")


def test_where_all_images_have_another_size_the_way_out_is_about_the_images(tmp_path):
    picture(tmp_path / "set" / "a.jpg", 100, 100)
    write(tmp_path / "set" / "a.xml", voc("a.jpg", BOX))
    with pytest.raises(
        NothingLeft, match=r"says 200 x 100, is 100 x 100.*Give the images that were annotated"
    ) as caught:
        converted(tmp_path / "set", tmp_path / "out", "voc")
    assert "Name the folder" not in str(caught.value)
    picture(tmp_path / "whole" / "a.jpg")
    assert converted(tmp_path / "set", tmp_path / "out", "voc", images=tmp_path / "whole")[0].images == {"train": 1}
