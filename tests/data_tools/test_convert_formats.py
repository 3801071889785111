"""Each format as it occurs in the wild, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import Options
from dfine_lib.data.images import DataError


def picture(path, width=200, height=100, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **more)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def converted(source, out, read, split="train", **options):
    """The result, and the boxes by picture as (class, left, top, width, height)."""
    result = convert(source, out, read=read, options=Options(progress=False, **options))
    data = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    found = {image["file_name"]: [] for image in data["images"]}
    files = {image["id"]: image["file_name"] for image in data["images"]}
    for box in data["annotations"]:
        found[files[box["image_id"]]].append((names[box["category_id"]], *box["bbox"]))
    return result, found, data


def voc(name, *objects, size=(200, 100)):
    rows = "".join(
        f"<object><name>{label}</name>{more}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for label, x1, y1, x2, y2, more in objects
    )
    size = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{size}{rows}</annotation>"


# Pascal VOC


def test_voc_with_blanks_in_the_name_floats_and_no_difficult(tmp_path):
    picture(tmp_path / "set" / "a picture (1).jpg")
    write(tmp_path / "set" / "a picture (1).xml", voc("a picture (1).jpg", ("cat", 10.5, 20, 30.25, 60, "")))
    _, found, data = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert found == {"a picture (1).jpg": [("cat", 10.5, 20, 19.75, 40)]}
    assert data["annotations"][0]["iscrowd"] == 0 and data["annotations"][0]["area"] == 790
    assert (tmp_path / "out" / "images" / "train" / "a picture (1).jpg").is_file()


def test_voc_corners_count_from_one_only_when_told(tmp_path):
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
    assert result.dropped == {"box without area": 1} and len(found["b.jpg"]) == 1


def test_voc_takes_the_size_of_the_picture_where_the_file_says_zero_or_something_else(tmp_path):
    for name, size in (("zero", (0, 0)), ("wrong", (100, 200)), ("none", None)):
        picture(tmp_path / "set" / f"{name}.png")
        write(tmp_path / "set" / f"{name}.xml", voc(f"{name}.png", ("cat", 150, 10, 190, 60, ""), size=size))
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "voc")
    assert {(image["width"], image["height"]) for image in data["images"]} == {(200, 100)}
    assert all(rows == [("cat", 150, 10, 40, 50)] for rows in found.values())
    assert result.changed == {"size taken from the picture": 1}
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    assert "told 100 x 200, is 200 x 100" in report["listed"][0]["where"]


def test_voc_keeps_the_splits_of_its_lists_and_tells_what_is_in_none(tmp_path):
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("a", "b", "c"):
        picture(home / "JPEGImages" / f"{name}.jpg")
        write(home / "Annotations" / f"{name}.xml", voc(f"{name}.jpg", ("dog", 0, 0, 9, 9, "<difficult>1</difficult>")))
    write(home / "ImageSets" / "Main" / "train.txt", "b\n")
    write(home / "ImageSets" / "Main" / "val.txt", "a\nmissing\n")
    result, found, data = converted(tmp_path / "VOCdevkit", tmp_path / "out", "voc", split="val")
    assert result.images == {"train": 1, "val": 1} and list(found) == ["a.jpg"]
    assert result.dropped == {"annotation file missing": 1, "in no list of ImageSets/Main": 1}
    assert data["annotations"][0]["difficult"] == 1


def test_a_voc_file_name_that_is_not_there_gives_way_to_that_of_the_xml(tmp_path):
    picture(tmp_path / "set" / "IMG_2.JPG")
    write(tmp_path / "set" / "IMG_2.xml", voc("IMG_1.jpg", ("cat", 0, 0, 10, 10, "")))
    assert list(converted(tmp_path / "set", tmp_path / "out", "voc")[1]) == ["IMG_2.JPG"]


# YOLO


def test_yolo_by_hand_with_polygons_empty_and_missing_files(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "set" / "images" / "train" / f"{name}.jpg")
    picture(tmp_path / "set" / "images" / "val" / "d.jpg")
    rows = "1 0.5 0.5 0.5 0.2\n0 0.1 0.2 0.3 0.2 0.2 0.6\n"
    write(tmp_path / "set" / "labels" / "train" / "a.txt", rows)
    write(tmp_path / "set" / "labels" / "train" / "b.txt", "\n")
    names = "path: ../datasets/somewhere\ntrain: images/train\nval: images/val\nnames: {0: tree, 1: house}\n"
    write(tmp_path / "set" / "data.yaml", names)
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert result.images == {"train": 3, "val": 1}
    assert found["b.jpg"] == found["c.jpg"] == []
    np.testing.assert_allclose([row[1:] for row in found["a.jpg"]], [[50, 40, 100, 20], [20, 20, 40, 40]], atol=1e-6)
    assert [row[0] for row in found["a.jpg"]] == ["house", "tree"]
    assert data["categories"] == [{"id": 1, "name": "tree"}, {"id": 2, "name": "house"}]


def test_roboflows_yolo_whose_paths_lead_out_of_the_folder_is_found_inside(tmp_path):
    picture(tmp_path / "set" / "train" / "images" / "a.jpg")
    picture(tmp_path / "set" / "valid" / "images" / "b.jpg")
    write(tmp_path / "set" / "train" / "labels" / "a.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "set" / "valid" / "labels" / "b.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "set" / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: ['x']\nnc: 1\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", split="val")
    assert result.images == {"train": 1, "val": 1} and found == {"b.jpg": [("x", 0, 0, 200, 100)]}


@pytest.mark.parametrize("shape", ["[3, 2]", "[2, 3]"])
def test_yolo_keypoints_are_left_off_and_not_taken_for_a_polygon(tmp_path, shape):
    picture(tmp_path / "set" / "images" / "a.jpg")
    write(tmp_path / "set" / "labels" / "a.txt", "0 0.5 0.5 0.2 0.4 " + "0.1 0.2 0.3 0.1 0.9 0.8\n")
    write(tmp_path / "set" / "data.yaml", f"names: [x]\nkpt_shape: {shape}\n")
    _, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert found == {"a.jpg": [("x", pytest.approx(80), pytest.approx(30), pytest.approx(40), pytest.approx(40))]}
    write(tmp_path / "set" / "data.yaml", "names: [x]\nkpt_shape: 17\n")
    with pytest.raises(DataError, match="kpt_shape"):
        converted(tmp_path / "set", tmp_path / "out2", "yolo")


def test_yolo_sizes_are_those_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "set" / "images" / "a.jpg", 200, 100, exif=exif)
    write(tmp_path / "set" / "labels" / "a.txt", "0 0.5 0.25 0.5 0.5")
    _, found, data = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (100, 200)
    assert found["a.jpg"] == [("x", 25, 0, 50, 100)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.1", "line 2: 4 numbers"), ("0 .5 .5 .1 .1 .9", "score"), ("7 .5 .5 .1 .1", "class 7 has no name"),
        ("0 .5 .5 nan .1", "line 2: a coordinate"), ("0 .5 .5 a .1", "should be a number"),
        ("0.5 .5 .5 .1 .1", "class 0.5"),
        ("-1 .5 .5 .1 .1", "class -1"), ("0 120 50 40 40", "fractions"), ("0 1e400 .5 .1 .1", "line 2"),
    ],
)  # fmt: skip
def test_a_bad_yolo_row_is_refused_with_file_and_line(tmp_path, row, message):
    picture(tmp_path / "set" / "images" / "a.jpg")
    write(tmp_path / "set" / "labels" / "a.txt", f"0 0.5 0.5 0.1 0.1\n{row}\n")
    with pytest.raises(DataError, match=message) as caught:
        converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert "a.txt, line 2" in str(caught.value) and not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


# CrowdHuman


def odgt(name, *found):
    return json.dumps({"ID": name, "gtboxes": list(found)})


def person(box, tag="person", **extra):
    return {"fbox": box, "tag": tag, "hbox": [1, 1, 5, 5], "vbox": [2, 2, 20, 20], "extra": extra, "head_attr": {}}


def test_crowdhuman_corners_outside_are_cut_and_masks_are_crowds(tmp_path):
    picture(tmp_path / "set" / "Images" / "273278,c70a.jpg")
    row = odgt("273278,c70a", person([-5, 10, 20, 95], box_id=0), person([50, 5, 10, 10], "mask", ignore=1),
               person([80, 5, 10, 10], ignore=1),
               person([-30, 5, 10, 10]), person([90, 5, 4, 4], ignore=0, unsure=1))  # fmt: skip
    write(tmp_path / "set" / "annotation_val.odgt", row + "\n\n")
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "crowdhuman", split="val")
    assert [row[1:] for row in found["273278,c70a.jpg"]] == [
        (0, 10, 15, 90), (50, 5, 10, 10), (80, 5, 10, 10), (90, 5, 4, 4)
    ]  # fmt: skip
    assert [box["iscrowd"] for box in data["annotations"]] == [0, 1, 1, 0]
    assert result.dropped == {"box wholly outside of its image": 1}
    assert result.changed == {"box cut at the edge of its image": 1}
    assert data["categories"] == [{"id": 1, "name": "person"}]
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    assert [entry["where"].rpartition(", ")[2] for entry in report["listed"]] == ["gtboxes[0]", "gtboxes[3]"]
    assert all("annotation_val.odgt, line 1" in entry["where"] for entry in report["listed"])
    _, found, _ = converted(tmp_path / "set", tmp_path / "kept", "crowdhuman", split="val", keep_outside=True)
    assert found["273278,c70a.jpg"][0][1:] == (-5, 10, 20, 95)
    _, found, _ = converted(tmp_path / "set", tmp_path / "head", "crowdhuman", split="val", person_box="head")
    assert found["273278,c70a.jpg"][0][1:] == (1, 1, 5, 5)


# Objects365


def test_objects365_finds_pictures_in_their_patches_and_counts_the_absent(tmp_path):
    picture(tmp_path / "set" / "train" / "patch8" / "objects365_v1_1.jpg")
    picture(tmp_path / "set" / "train" / "images" / "v2" / "patch9" / "objects365_v2_2.jpg", 100, 200)
    names = (
        "images/v1/patch8/objects365_v1_1.jpg",
        "images/v2/patch9/objects365_v2_2.jpg",
        "images/v2/patch16/gone.jpg",
    )
    images = [{"id": 420917 + i, "file_name": name, "width": 200, "height": 100} for i, name in enumerate(names)]
    boxes = [{"id": 1 + i, "image_id": 420917 + i, "category_id": 365, "bbox": [5, 5, 20.5, 30], "iscrowd": i == 1,
              "area": 615} for i in range(3)]  # fmt: skip
    categories = [{"id": 365, "name": "Table Tennis "}, {"id": 1, "name": "Person"}]
    data = {"annotations": boxes, "images": images, "categories": categories, "licenses": []}  # boxes come first
    write(tmp_path / "set" / "zhiyuan_objv2_train.json", data)
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "objects365")
    assert result.dropped == {"image: picture missing": 1, "box of an image left out": 1}
    assert result.changed == {"size taken from the picture": 1}
    assert list(found) == list(names[:2]) and [image["id"] for image in data["images"]] == [420917, 420918]
    assert data["categories"] == [{"id": 1, "name": "Person"}, {"id": 365, "name": "Table Tennis "}]
    assert [(box["id"], box["iscrowd"]) for box in data["annotations"]] == [(1, 0), (2, 1)]
    assert (tmp_path / "out" / "images" / "train" / names[0]).is_file()


def test_coco_with_ids_as_text_without_area_and_with_boxes_of_nobody(tmp_path):
    data = {
        "images": [{"id": "x", "file_name": "a.jpg", "width": 20, "height": 10}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": "b1", "image_id": "x", "category_id": 3, "bbox": [1, 1, 5, 5]},
            {"id": "b1", "image_id": "x", "category_id": 4, "bbox": [1, 1, 5, 5]},
            {"image_id": "y", "category_id": 3, "bbox": [1, 1, 5, 5]},
            {"image_id": "x", "category_id": 3, "bbox": [1, 1, 0, 5]},
            {"image_id": "x", "category_id": 3, "bbox": [9, 1, -2, 5]},
            {"image_id": "x", "category_id": 3, "segmentation": []},
        ],
    }
    source = write(tmp_path / "set" / "a.json", data)
    result, found, data = converted(source, tmp_path / "out", "coco")
    assert found == {"a.jpg": [("cat", 1, 1, 5, 5)]} and data["annotations"][0]["area"] == 25
    assert data["images"][0]["id"] == 1 and data["annotations"][0]["image_id"] == 1
    assert result.dropped == {
        "box of an image that is not listed": 1, "box of a category that is not listed": 1, "box without area": 1,
        "box of negative width or height": 1, "box without a bbox": 1,
    }  # fmt: skip


def test_the_only_split_of_a_folder_is_that_of_the_user_where_its_name_is_none(tmp_path):
    write(tmp_path / "set" / "annotations" / "instances_default.json", {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}], "categories": [{"id": 1, "name": "x"}],
        "annotations": []})  # fmt: skip
    assert converted(tmp_path / "set", tmp_path / "out", "coco")[0].images == {"train": 1}


# LabelMe, CVAT, OpenImages, CreateML, CSV


def test_labelme_rectangles_polygons_circles_and_points(tmp_path):
    picture(tmp_path / "set" / "images" / "a.png")
    shapes = [
        {"label": "r", "shape_type": "rectangle", "points": [[60, 50], [10, 20]]},
        {"label": "p", "points": [[10, 10], [50, 20], [30, 70]]},
        {"label": "c", "shape_type": "circle", "points": [[100, 50], [103, 54]]},
        {"label": "d", "shape_type": "point", "points": [[1, 1]]},
    ]
    content = {
        "imagePath": "..\\images\\a.png",
        "imageWidth": 200,
        "imageHeight": 100,
        "shapes": shapes,
        "imageData": "x",
    }
    write(tmp_path / "set" / "labels" / "a.json", content)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert found == {"images/a.png": [("r", 10, 20, 50, 30), ("p", 10, 10, 40, 60), ("c", 95, 45, 10, 10)]}
    assert result.dropped == {"a point, which has no box": 1}


def test_a_path_on_the_annotators_disk_counts_by_its_name_where_the_folder_of_the_pictures_is_given(tmp_path):
    picture(tmp_path / "pictures" / "a.jpg")
    shapes = [{"label": "x", "points": [[10, 20], [40, 60]]}]
    write(tmp_path / "labelme" / "a.json", {"imagePath": "..\\pictures\\a.jpg", "shapes": shapes})
    write(tmp_path / "voc" / "b.xml", voc("C:\\data\\a.jpg", ("x", 10, 20, 40, 60, "")))
    write(tmp_path / "csv" / "b.csv", "/data/imgs/a.jpg,10,20,40,60,x\n")
    for read in ("labelme", "voc", "csv"):
        with pytest.raises(DataError, match="--images"):
            converted(tmp_path / read, tmp_path / f"{read}_out", read)
        result, found, _ = converted(tmp_path / read, tmp_path / f"{read}_out", read, images=tmp_path / "pictures")
        assert found == {"a.jpg": [("x", 10, 20, 30, 40)]}
        assert result.changed == {"folders left off the picture's name": 1}


def test_cvats_tracks_become_boxes_of_frames(tmp_path):
    for frame in (4, 6, 8):
        picture(tmp_path / "set" / "images" / f"frame_{frame:06d}.PNG")
    at = 'xtl="10" ytl="20" xbr="40" ybr="60"'
    xml = f"""<annotations><meta><task><start_frame>4</start_frame><stop_frame>8</stop_frame><frame_filter>step=2
    </frame_filter><labels><label><name>b</name></label></labels><original_size><width>200</width><height>100</height>
    </original_size></task></meta><track id="0" label="b"><box frame="4" outside="0" {at}/>
    <box frame="6" outside="1" {at}/></track><track id="1" label="b"><polygon frame="4" points="1,2;5.5,9;3,20"/>
    <points frame="6" points="1,1"/></track></annotations>"""
    write(tmp_path / "set" / "annotations.xml", xml)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    boxes = [("b", 10, 20, 30, 40), ("b", 1, 2, 4.5, 18)]
    assert found == {"frame_000004.PNG": boxes, "frame_000006.PNG": [], "frame_000008.PNG": []}
    assert result.dropped == {"<points>, which has no box": 1}
    write(tmp_path / "set" / "annotations.xml", xml.replace("<stop_frame>8", "<stop_frame>9000000"))
    with pytest.raises(DataError, match="no video"):
        converted(tmp_path / "set", tmp_path / "out2", "cvat")


def test_cvat_subsets_turned_boxes_and_outlines(tmp_path):
    xml = """<annotations><meta><task><labels><label><name>b</name></label><label><name>a</name></label></labels></task>
    </meta><image id="0" name="x/1.jpg" subset="Validation" width="200" height="100">
    <box label="a" xtl="40" ytl="40" xbr="80" ybr="60" rotation="90"/><polygon label="b" points="1,2;5.5,9;3,20"/>
    <ellipse label="a" cx="50" cy="50" rx="20" ry="10" rotation="90.0"/><points label="a" points="1,1"/>
    <mask label="b" rle="1,2" left="3" top="4" width="5" height="6"/></image></annotations>"""
    write(tmp_path / "set" / "annotations.xml", xml)
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "cvat", split="val")
    np.testing.assert_allclose(
        [row[1:] for row in found["x/1.jpg"]],
        [[50, 30, 20, 40], [1, 2, 4.5, 18], [40, 30, 20, 40], [3, 4, 5, 6]],
        atol=1e-6,
    )
    assert [c["name"] for c in data["categories"]] == ["b", "a"]
    assert result.dropped == {"<points>, which has no box": 1}


def test_openimages_groups_names_and_rows_in_any_order(tmp_path):
    for name in ("00a1", "00b2"):
        picture(tmp_path / "set" / "validation" / f"{name}.jpg")
    rows = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf",
            "00a1,x,/m/01,1,0.1,0.2,0.5,0.75,0,0,1", "00b2,x,/m/02,1,0,1,0,1,0,1,0",
            "00a1,x,/m/02,1,0,0.5,0,0.5,0,0,0"]  # fmt: skip
    write(tmp_path / "set" / "validation-annotations-bbox.csv", "\n".join(rows))
    write(tmp_path / "set" / "class-descriptions-boxable.csv", "/m/01,Tree\n/m/02,Man\n")
    _, found, data = converted(tmp_path / "set", tmp_path / "out", "openimages", split="val")
    assert list(found) == ["00a1.jpg", "00b2.jpg"]
    np.testing.assert_allclose([row[1:] for row in found["00a1.jpg"]], [[20, 50, 20, 25], [0, 0, 100, 50]], atol=1e-6)
    assert [row[0] for row in found["00a1.jpg"]] == ["Tree", "Man"]
    assert [box["iscrowd"] for box in data["annotations"]] == [1, 0, 0]
    assert [box.get("truncated", 0) for box in data["annotations"]] == [0, 0, 1]


def test_createml_boxes_are_told_by_their_centre(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    at = {"x": 50, "y": 40, "width": 20, "height": 10}
    write(tmp_path / "set" / "_annotations.createml.json",
          [{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": at}]}])  # fmt: skip
    assert converted(tmp_path / "set", tmp_path / "out", "createml")[1] == {"a.jpg": [("x", 40, 35, 20, 10)]}


@pytest.mark.parametrize(
    "content",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,200,100,x,10,20,40,60\n",
        "image;label;x;y;w;h\na.jpg;x;10,0;20,0;30,0;40,0\n",
        "a.jpg,10,20,40,60,x\nb.jpg,,,,,\n",
        "image_path,class_name,x_min,y_min,x_max,y_max\na.jpg,x,10,20,40,60\n",
        "\ufeffimage_id\tname\tleft\ttop\twidth\theight\na.jpg\tx\t10\t20\t30\t40\n",
    ],
)
def test_csv_in_the_forms_that_occur(tmp_path, content):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.jpg")
    write(tmp_path / "set" / "boxes.csv", content)
    _, found, _ = converted(tmp_path / "set", tmp_path / "out", "csv")
    assert found.pop("a.jpg") == [("x", 10, 20, 30, 40)]
    assert found == ({"b.jpg": []} if "b.jpg" in content else {})


# Categories


def test_given_categories_keep_their_order_and_ids_and_others_are_counted(tmp_path):
    objects = [(name, 1, 1, 9, 9, "") for name in ("dog", "cat", "cow", "dog")]
    write(tmp_path / "set" / "a.xml", voc("a.jpg", *objects))
    result, found, data = converted(tmp_path / "set", tmp_path / "1", "voc")
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "cat"), (2, "cow"), (3, "dog")]
    assert [row[0] for row in found["a.jpg"]] == ["dog", "cat", "cow", "dog"]
    result, found, data = converted(tmp_path / "set", tmp_path / "2", "voc", categories="dog, cat,horse")
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "dog"), (2, "cat"), (3, "horse")]
    assert result.dropped == {"class 'cow' is not in the list of categories": 1}
    listed = write(tmp_path / "c.json", [{"id": 17, "name": "cat"}, {"id": 4, "name": "dog"}])
    _, _, data = converted(tmp_path / "set", tmp_path / "3", "voc", categories=str(listed))
    assert [box["category_id"] for box in data["annotations"]] == [4, 17, 4]
    listed = write(tmp_path / "c.txt", "cow\n\ncat\n")
    _, _, data = converted(tmp_path / "set", tmp_path / "4", "voc", categories=str(listed))
    assert [box["category_id"] for box in data["annotations"]] == [2, 1]
    with pytest.raises(DataError, match="stands there twice"):
        converted(tmp_path / "set", tmp_path / "5", "voc", categories="a,a")
    listed = write(tmp_path / "c.yaml", "names:\n  0: cow\n  1: dog\n  2: cat\n")
    _, _, data = converted(tmp_path / "set", tmp_path / "6", "voc", categories=str(listed))
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "cow"), (2, "dog"), (3, "cat")]


@pytest.mark.parametrize("told", ["Dog,Cat,Cow", "dog;cat;cow", "/no/such/list"])
def test_a_list_that_names_no_class_of_the_source_is_refused(tmp_path, told):
    """Otherwise a misspelt list, or the path of one that is not there, gives a set without a single box."""
    write(tmp_path / "set" / "a.xml", voc("a.jpg", *[(name, 1, 1, 9, 9, "") for name in ("dog", "cat", "cow")]))
    with pytest.raises(DataError, match=r"its classes are 'dog', 'cat', 'cow'\. Write them as they stand"):
        converted(tmp_path / "set", tmp_path / "out", "voc", categories=told)
    assert not (tmp_path / "out").exists()


def test_the_source_is_left_as_it_was(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.xml", voc("a.jpg", ("cat", 1, 1, 9, 9, "")))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "set").iterdir()}
    converted(tmp_path / "set", tmp_path / "out", "voc", pictures="copy")
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "set").iterdir()}
    copy = tmp_path / "out" / "images" / "train" / "a.jpg"
    assert copy.stat().st_nlink == 1
    assert Path(copy).read_bytes() == (tmp_path / "set" / "a.jpg").read_bytes()
