"""YOLO folders as tools and people write them: every image, label file and split is taken, counted or refused."""

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import NothingLeft, Options
from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, write

ROW = "0 0.5 0.5 0.5 0.5\n"
BOX = ("x", 50, 25, 100, 50)


def labelled(root, *images, row=ROW, labels="labels"):
    """Images with a label file each, in `labels` where the image is in `images`, else beside it."""
    for name in images:
        path = picture(root / name)
        parts = list(path.relative_to(root).parts)
        at = [i for i, part in enumerate(parts) if part.lower() == "images"]
        if at:
            parts[at[-1]] = labels
        write(root.joinpath(*parts).with_suffix(".txt"), row)


def refused(root, out, match, kind=DataError, **options):
    with pytest.raises(kind, match=match) as caught:
        convert(root, out, read="yolo", options=Options(progress=False, **options))
    assert not out.exists()
    return str(caught.value)


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
    assert "2 of 4 images have no label file: taken as images without objects" in result.remarks


# Splits


def test_roboflows_yolo_whose_paths_lead_out_of_the_folder_is_found_inside(tmp_path):
    labelled(tmp_path / "set", "train/images/a.jpg", "valid/images/b.jpg")
    write(tmp_path / "set" / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: ['x']\nnc: 1\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", split="val")
    assert result.images == {"train": 1, "val": 1} and found == {"b.jpg": [BOX]}


@pytest.mark.parametrize("value", ["images/val", "../valid/images", "/home/me/set/valid/images", "val.txt"])
def test_a_split_that_is_named_and_not_there_is_an_error_whose_way_out_works(tmp_path, value):
    labelled(tmp_path / "set", "images/train/a.jpg", "images/valid/b.jpg")
    file = write(tmp_path / "set" / "data.yaml", f"train: images/train\nval: {value}\nnames: [x]\n")
    message = refused(tmp_path / "set", tmp_path / "out", "remove the key 'val'")
    assert "'val'" in message and value in message and "images/train, images/valid" in message
    file.write_text("train: images/train\nval: images/valid\nnames: [x]\n")  # "Correct the value"
    assert converted(tmp_path / "set", tmp_path / "out1", "yolo")[0].images == {"train": 1, "val": 1}
    file.write_text("train: images/train\nnames: [x]\n")  # "or remove the key"
    result = converted(tmp_path / "set", tmp_path / "out2", "yolo")[0]
    assert result.images == {"train": 1} and result.left_out("images") == {"no record names it": 1}
    assert result.left_out("annotation files") == {"label file of an image that no split names": 1}


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("images/train", "images/val"), ("./images/train/", "images/val"), ("/data/me/set/images/train", "images/val"),
        ("/content/x/images/train", "/content/x/images/val"), ("set/images/train", "../set/images/val"),
        ("../datasets/set/images/train", "images\\val"), ("C:\\x\\images\\train", "images/VAL"),
    ],
)  # fmt: skip
def test_paths_of_other_folders_and_machines_are_understood_where_one_thing_is_meant(tmp_path, train, val):
    labelled(tmp_path / "set", "images/train/a.jpg", "images/val/b.jpg", "images/more/c.jpg")
    write(tmp_path / "set" / "data.yaml", f"train: {train}\nval: '{val}'\nnames: [x]\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert result.images == {"train": 1, "val": 1} and found == {"a.jpg": [BOX]}
    said = [remark for remark in result.remarks if "is read as" in remark]
    assert bool(said) == (train.strip("./") != "images/train" or "C:" in train)


def test_a_path_without_the_name_of_a_split_is_not_cut_until_it_fits(tmp_path):
    """The folder `images` is there, and holds other images than those meant."""
    labelled(tmp_path / "set", "images/train/a.jpg")
    write(tmp_path / "set" / "data.yaml", "train: images/train\nval: /data/night/images\nnames: [x]\n")
    refused(tmp_path / "set", tmp_path / "out", "'val' is '/data/night/images', and no images are there")


@pytest.mark.parametrize("keys", [("Train", "Validation"), ("training", "dev"), ("TRAIN", "valid"), ("train", "VAL")])
def test_every_name_of_a_split_is_known_as_a_key_in_any_case(tmp_path, keys):
    labelled(tmp_path / "set", "day/a.jpg", "night/b.jpg")
    write(tmp_path / "set" / "data.yaml", f"{keys[0]}: day\n{keys[1]}: night\ntest:\nnames: [x]\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", split="val")
    assert result.images == {"train": 1, "val": 1} and found == {"b.jpg": [BOX]}


def test_an_unknown_split_keeps_its_name_as_a_key_and_as_a_folder(tmp_path):
    labelled(tmp_path / "set", "images/train/a.jpg", "images/Night/b.jpg")
    picture(tmp_path / "set" / "images" / "Night" / "dark.jpg")  # without a label file
    picture(tmp_path / "set" / "images" / "figures" / "plot.jpg")  # a folder without any
    result = converted(tmp_path / "set", tmp_path / "0", "yolo", categories="x")[0]
    assert result.images == {"train": 1, "Night": 2} and result.left_out("images") == {"no record names it": 1}
    (tmp_path / "set" / "images" / "Night" / "dark.jpg").unlink()
    assert converted(tmp_path / "set", tmp_path / "1", "yolo", categories="x")[0].images == {"train": 1, "Night": 1}
    write(tmp_path / "set" / "data.yaml", "train: images/train\nminival: images/Night\nnames: [x]\ndownload: a/b.sh\n")
    assert converted(tmp_path / "set", tmp_path / "2", "yolo")[0].images == {"train": 1, "minival": 1}


@pytest.mark.parametrize(
    "images",
    [
        ("images/Train/a.jpg", "images/Val/b.jpg"), ("train/images/a.jpg", "valid/images/b.jpg"),
        ("Images/train2017/a.jpg", "Images/val2017/b.jpg"), ("train/a.jpg", "dev/b.jpg"),
        ("export/train/images/a.jpg", "export/validation/images/b.jpg"),
        ("VisDrone2019-DET-train/images/a.jpg", "VisDrone2019-DET-val/images/b.jpg"),
    ],
)  # fmt: skip
def test_folders_alone_name_the_splits(tmp_path, images):
    labelled(tmp_path / "set", *images, labels="Labels")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert result.images == {"train": 1, "val": 1} and found == {"a.jpg": [BOX]}


def test_images_of_several_folders_keep_these_and_an_image_of_two_splits_stays_in_the_one_that_measures(tmp_path):
    labelled(tmp_path / "set", *(f"cam{i}/images/{name}.jpg" for i in (1, 2) for name in ("a", "b")))
    file = write(tmp_path / "set" / "data.yaml", "train: [cam1/images, cam2/images]\nval: cam1/images\nnames: [x]\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert found == {"cam2/a.jpg": [BOX], "cam2/b.jpg": [BOX]} and result.images == {"train": 2, "val": 2}
    assert result.left_out("records") == {"image is in val as well": 2}
    file.write_text("train: [cam1/images, cam2/images]\nnames: [x]\n")
    _, found, _ = converted(tmp_path / "set", tmp_path / "two", "yolo")
    assert list(found) == ["cam1/a.jpg", "cam1/b.jpg", "cam2/a.jpg", "cam2/b.jpg"]
    file.write_text("train: cam1/images\nval: ./cam1/images/\nnames: [x]\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "same", "yolo")
    assert result.images == {"train": 2} and list(found) == ["a.jpg", "b.jpg"]
    assert "all 2 images of 'val' are in 'train' as well: taken once, as train" in " ".join(result.remarks)


@pytest.mark.parametrize("before", ["", "./", "data/", "/content/drive/set/", "D:\\work\\set\\"])
def test_lists_of_images_are_read_with_the_folders_of_whoever_wrote_them(tmp_path, before):
    labelled(tmp_path / "set", "cam1/images/a.jpg", "cam2/images/a.jpg", "cam2/images/b.jpg")
    rows = [f"{before}cam1/images/a.jpg", f"{before}cam2/images/a.jpg", f"{before}cam2/images/gone.jpg"]
    write(tmp_path / "set" / "train.txt", "\ufeff" + "\r\n".join(rows) + "\r\n\r\n")
    write(tmp_path / "set" / "val.txt", f"{before}cam2/images/b.jpg\n{before}cam2/images/b.jpg\n")
    write(tmp_path / "set" / "list.yaml", "train: train.txt\nval: val.txt\nnames: [x]\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert found == {"cam1/a.jpg": [BOX], "cam2/a.jpg": [BOX]} and result.images == {"train": 2, "val": 1}
    assert result.left_out("records") == {"image missing": 1, "image named twice in its split": 1}


def test_a_list_whose_rows_begin_with_different_foreign_folders_is_refused(tmp_path):
    labelled(tmp_path / "set", "a.jpg", "b.jpg")
    write(tmp_path / "set" / "train.txt", "/x/cam1/a.jpg\n/x/cam2/b.jpg\n")
    write(tmp_path / "set" / "data.yaml", "train: train.txt\nnames: [x]\n")
    refused(tmp_path / "set", tmp_path / "out", "train.txt, line 2.*it is not known whose image")


def test_cvats_and_darknets_obj_data_is_read_with_its_lists_and_its_folder_data(tmp_path):
    labelled(tmp_path / "set", "obj_train_data/a.png", "obj_Validation_data/b.png")
    write(tmp_path / "set" / "train.txt", "data/obj_train_data/a.png\n")
    write(tmp_path / "set" / "Validation.txt", "data/obj_Validation_data/b.png\n")
    write(tmp_path / "set" / "obj.names", "x\nunused\n")
    write(tmp_path / "set" / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/Validation.txt\n"
          "names = data/obj.names\nbackup = backup/\n")  # fmt: skip
    for i, source in enumerate(("set", "set/obj.data")):
        result, found, _ = converted(tmp_path / source, tmp_path / f"out{i}", "yolo")
        assert result.images == {"train": 1, "val": 1} and found == {"a.png": [BOX]} and result.categories == 2


def test_a_description_that_lies_deeper_or_is_one_of_several(tmp_path):
    labelled(tmp_path / "set", "export/images/train/a.jpg")
    write(tmp_path / "set" / "export" / "my.yaml", "path: .\ntrain: images/train\nnames: [x]\n")
    write(tmp_path / "set" / "hyp.yaml", "lr0: 0.01\nval: true\n")
    assert converted(tmp_path / "set", tmp_path / "out", "yolo")[1] == {"a.jpg": [BOX]}
    write(tmp_path / "set" / "export" / "other.yaml", "train: images/train\nnames: [y]\n")
    message = refused(tmp_path / "set", tmp_path / "out2", "several descriptions")
    assert "other.yaml" in message
    assert converted(tmp_path / "set" / "export" / "my.yaml", tmp_path / "out3", "yolo")[1] == {"a.jpg": [BOX]}


def test_images_outside_of_the_source_name_the_folder_to_give(tmp_path):
    labelled(tmp_path / "sets" / "coffee", "images/train/a.jpg")
    write(tmp_path / "sets" / "configs" / "data.yaml", "path: ../coffee\ntrain: images/train\nnames: [x]\n")
    message = refused(tmp_path / "sets" / "configs", tmp_path / "out", "outside of")
    assert message.endswith(f"{tmp_path / 'sets'}.")
    assert converted(tmp_path / "sets", tmp_path / "out", "yolo")[1] == {"a.jpg": [BOX]}


# Images and label files


def test_images_of_any_ending_are_taken(tmp_path):
    for i, name in enumerate(("p0.jpg", "p1.jfif", "p2.JPE", "p3.gif", "p4.WEBP")):
        kind = {"gif": "GIF", "webp": "WEBP"}.get(name[-4:].lower().strip("."), "JPEG")
        path = tmp_path / "set" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100), (i, 9, 9)).save(path, kind)
        write(tmp_path / "set" / "labels" / f"p{i}.TXT", ROW)
    assert len(converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")[1]) == 5


def test_a_label_file_of_another_case_or_with_the_ending_of_its_image_is_paired_and_mentioned(tmp_path):
    for name in ("p0", "p1", "p2", "p3", "caf\u00e9"):
        picture(tmp_path / "set" / "images" / f"{name}.jpg")
    for name in ("p0.txt", "p1.jpg.txt", "P2.txt", "p9.txt", "cafe\u0301.txt"):
        write(tmp_path / "set" / "labels" / name, ROW)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert {name: len(rows) for name, rows in found.items()} == {
        "p0.jpg": 1, "p1.jpg": 1, "p2.jpg": 1, "p3.jpg": 0, "caf\u00e9.jpg": 1
    }  # fmt: skip
    assert result.left_out("annotation files") == {"label file that matches no image": 1}
    assert any(text.startswith("3 label files have the name of their image in another form") for text in result.remarks)
    assert "1 of 5 images have no label file: taken as images without objects" in result.remarks


def test_images_of_one_name_and_two_endings_share_a_label_file_and_are_left_out(tmp_path):
    labelled(tmp_path / "set", "images/a.jpg", "images/b.jpg")
    picture(tmp_path / "set" / "images" / "a.png")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert found == {"b.jpg": [BOX]} and result.left_out("annotation files") == {"label file of two images": 1}
    assert result.left_out("records") == {"image shares its label file with one of another ending": 2}


def test_a_set_of_nothing_but_images_that_share_a_label_file_is_refused_with_their_names(tmp_path):
    labelled(tmp_path / "set", "images/a.jpg")
    picture(tmp_path / "set" / "images" / "a.png")
    message = refused(tmp_path / "set", tmp_path / "out", "no image is left", NothingLeft, categories="x")
    assert all(path in message for path in ("labels/a.txt", "images/a.jpg", "images/a.png"))


def test_a_label_file_whose_name_is_url_encoded_belongs_to_its_image(tmp_path):
    picture(tmp_path / "set" / "images" / "my photo (1).jpg")
    write(tmp_path / "set" / "labels" / "my%20photo%20%281%29.txt", ROW)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert found == {"my photo (1).jpg": [BOX]} and not result.left_out("annotation files")
    assert any(text.startswith("1 label files have the name of their image in another form") for text in result.remarks)


def test_a_set_without_any_label_file_is_refused_with_the_folders_that_hold_some(tmp_path):
    labelled(tmp_path / "set", "images/train/a.jpg", labels="labels_yolo")
    message = refused(tmp_path / "set", tmp_path / "out", "not one of 1 images has a label file", NothingLeft,
                      categories="x")  # fmt: skip
    assert "labels_yolo/train" in message and "labels/train/a.txt" in message
    (tmp_path / "set" / "labels_yolo").rename(tmp_path / "set" / "labels")  # "rename the folder"
    assert converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")[1] == {"a.jpg": [BOX]}


def test_a_split_whose_label_files_are_elsewhere_is_refused_and_an_unlabelled_one_is_mentioned(tmp_path):
    labelled(tmp_path / "set", "images/train/a.jpg")
    labelled(tmp_path / "set", "images/val/b.jpg", labels="label")
    message = refused(
        tmp_path / "set", tmp_path / "out", "not one of 1 images of 'val' has", NothingLeft, categories="x"
    )
    assert "label/val" in message
    (tmp_path / "set" / "label" / "val" / "b.txt").unlink()
    result = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")[0]
    assert "1 of 2 images have no label file: taken as images without objects" in result.remarks
    assert "val has no boxes: nothing can be measured on it" in result.remarks


def test_linked_folders_are_named_as_the_cause(tmp_path):
    labelled(tmp_path / "elsewhere", "images/train/a.jpg")
    (tmp_path / "set").mkdir()
    for name in ("images", "labels"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / name)
    write(tmp_path / "set" / "data.yaml", "train: images/train\nnames: [x]\n")
    refused(tmp_path / "set", tmp_path / "out", "images is a link.*--follow-links")
    assert converted(tmp_path / "set", tmp_path / "out", "yolo", follow_links=True)[1] == {"a.jpg": [BOX]}


def test_texts_that_are_no_label_files_are_not_counted_as_such(tmp_path):
    labelled(tmp_path / "set", "a.jpg")
    write(tmp_path / "set" / "README.dataset.txt", "Provided by a user\nLicense: CC BY 4.0\n")
    write(tmp_path / "set" / "notes.txt", "12 images of 3 days\n")
    write(tmp_path / "set" / "classes.txt", "x\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert found == {"a.jpg": [BOX]} and result.found["annotation files"] == {"found": 1, "taken": 1, "left_out": {}}


def test_label_files_alone_find_their_images_in_the_folder_that_is_named(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        write(tmp_path / "set" / "labels" / split / f"{name}.txt", ROW)
        picture(tmp_path / "photos" / split / f"{name}.png")
    picture(tmp_path / "photos" / "train" / "more.png")
    write(tmp_path / "set" / "data.yaml", "train: images/train\nval: images/val\nnames: [x]\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", images=tmp_path / "photos")
    assert result.images == {"train": 1, "val": 1} and found == {"a.png": [BOX]}
    assert result.left_out("images") == {"no record names it": 1}


def test_yolo_sizes_are_those_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "set" / "images" / "a.jpg", 200, 100, exif=exif)
    write(tmp_path / "set" / "labels" / "a.txt", "0 0.5 0.25 0.5 0.5")
    _, found, data = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (100, 200)
    assert found["a.jpg"] == [("x", 25, 0, 50, 100)]


def test_what_is_written_is_found_by_the_rule_of_other_readers_below_a_folder_images(tmp_path):
    picture(tmp_path / "set" / "images" / "train" / "x" / "images" / "a.jpg")
    write(tmp_path / "set" / "annotations" / "instances_train.json", {
        "images": [{"id": 1, "file_name": "x/images/a.jpg", "width": 200, "height": 100}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [50, 25, 100, 50]}]})  # fmt: skip
    convert(tmp_path / "set", tmp_path / "yolo", read="coco", write="yolo", options=Options(progress=False))
    image = next((tmp_path / "yolo").rglob("*.jpg")).as_posix()
    before, _, after = image.rpartition("/images/")  # Ultralytics exchanges the last one
    with open(f"{before}/labels/{after[:-4]}.txt") as file:
        assert file.read() == ROW
    assert converted(tmp_path / "yolo", tmp_path / "back", "yolo")[1] == {"x/images/a.jpg": [BOX]}


# Class names


def test_an_empty_line_in_a_list_of_classes_counts(tmp_path):
    labelled(tmp_path / "set", "a.jpg", row="2 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "set" / "classes.txt", "cat\n\nsmall dog\r\nbird\n\n\n")
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "yolo")
    assert [c["name"] for c in data["categories"]] == ["cat", "small dog", "bird"]
    assert found["a.jpg"][0][0] == "small dog"
    assert any("class number 1 is an empty line" in remark for remark in result.remarks)
    write(tmp_path / "set" / "a.txt", "1 0.5 0.5 0.5 0.5\n")
    refused(tmp_path / "set", tmp_path / "out2", "a.txt, line 1: class 1 has no name: line 2 of the class list is emp")
    (tmp_path / "set" / "classes.txt").unlink()
    names = write(tmp_path / "names.txt", "cat\n\ndog\n")
    refused(tmp_path / "set", tmp_path / "out3", "names.txt, line 2: an empty line", categories=str(names))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes.txt": "cat\ndog\ncat\n"}, "line 3: class 'cat' is in line 1 already"),
        ({"labels/a/classes.txt": "cat\ndog\n", "labels/b/classes.txt": "dog\ncat\n"}, "lists of class names that dif"),
        ({"data.yaml": "nc: 3\nnames: [a, b]"}, "nc is 3, but there are 2 names"),
        ({"data.yaml": "names: {0: a, 2: b}"}, "without gaps"),
        ({"data.yaml": "names: [a, b, a]"}, "'a' is twice in 'names'"),
        ({"data.yaml": "names: [yes, no]"}, "class 0 is read by YAML as True. Write it in quotes"),
        ({"data.yaml": "names: coco.names"}, "neither a list of names nor a file"),
        ({"obj.data": "classes = 2\nnames = obj.names", "obj.names": "a\n"}, "classes is 2, but there are 1 names"),
        ({}, "no class names"),
    ],
)  # fmt: skip
def test_class_names_that_contradict_each_other_are_refused(tmp_path, files, message):
    labelled(tmp_path / "set", "images/a.jpg")
    for name, content in files.items():
        write(tmp_path / "set" / name, content)
    refused(tmp_path / "set", tmp_path / "out", message)


@pytest.mark.parametrize("names", ["{'0': cat, '1': big dog}", "[cat, big dog]", "\n- cat\n- 'big dog'\n", "my.names"])
def test_class_names_in_every_form_of_yaml(tmp_path, names):
    labelled(tmp_path / "set", "images/a.jpg", row="1 0.5 0.5 0.5 0.5")
    write(tmp_path / "set" / "my.names", "cat\nbig dog\n")
    write(tmp_path / "set" / "data.yaml", f"train: images\nnames: {names}\n")
    assert converted(tmp_path / "set", tmp_path / "out", "yolo")[1]["a.jpg"][0][0] == "big dog"


# Rows


def rows_of(*rows):
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def face(x, y, width, height, *more):
    """A box with five landmarks around its centre, and more behind each."""
    spots = ((-0.2, -0.2), (0.2, -0.15), (0.0, 0.05), (-0.15, 0.25), (0.18, 0.25))
    return [0, x, y, width, height, *(n for dx, dy in spots for n in (x + dx * width, y + dy * height, *more))]


def in_rows(tmp_path, rows, settings=""):
    """The boxes of one image with these rows, and the remarks."""
    labelled(tmp_path / "set", "images/a.jpg", row=rows if isinstance(rows, str) else rows_of(*rows))
    write(tmp_path / "set" / "data.yaml", f"train: images\nnames: [x, y]\n{settings}")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo")
    return [tuple(round(value, 6) for value in box[1:]) for box in found["a.jpg"]], result.remarks


@pytest.mark.parametrize("shape", ["[3, 2]", "[2, 3]"])
def test_yolo_keypoints_are_left_off_and_not_taken_for_a_polygon(tmp_path, shape):
    rows = "0 0.5 0.5 0.2 0.4 0.1 0.2 0.3 0.1 0.9 0.8\n"
    assert in_rows(tmp_path, rows, f"kpt_shape: {shape}\n")[0] == [(80, 30, 40, 40)]
    for content, message in (("kpt_shape: 17", "kpt_shape"), ("kpt_shape: [4, 2]", "line 1: 11 numbers; kpt_shape")):
        write(tmp_path / "set" / "data.yaml", f"names: [x]\n{content}\n")
        refused(tmp_path / "set", tmp_path / "out2", message)


def test_landmarks_without_kpt_shape_are_known_by_the_box_that_encloses_them(tmp_path):
    rows = [face(0.8, 0.2, 0.1, 0.2), face(0.2, 0.7, 0.05, 0.1), [0, 0.5, 0.5, 0.1, 0.1, *[-1] * 10]]  # WIDER
    boxes, remarks = in_rows(tmp_path, [*rows, [1, 0.5, 0.5, 0.5, 0.5]])
    assert boxes == [(150, 10, 20, 20), (35, 65, 10, 10), (90, 45, 20, 10), (50, 25, 100, 50)]
    assert "rows are a box with landmarks behind: the landmarks are left off" in remarks


def test_keypoints_with_visibility_are_known_by_it(tmp_path):
    rows = [face(0.8, 0.2, 0.1, 0.2, 2), face(0.5, 0.5, 0.6, 0.6, 1)]
    assert in_rows(tmp_path, rows)[0] == [(150, 10, 20, 20), (40, 20, 120, 60)]


def test_the_corners_of_a_plate_are_known_by_the_box_that_they_fill(tmp_path):
    corners = [0.4, 0.4, 0.6, 0.4, 0.6, 0.6, 0.4, 0.6]
    assert in_rows(tmp_path, [[0, 0.5, 0.5, 0.2, 0.2, *corners]])[0] == [(80, 40, 40, 20)]


def test_turned_boxes_are_known_by_their_corners(tmp_path):
    rows = [[0, 0.5, 0.2, 0.8, 0.5, 0.5, 0.8, 0.2, 0.5], [0, 0.1, 0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.3]]
    boxes, remarks = in_rows(tmp_path, rows)
    assert boxes == [(40, 20, 120, 60), (20, 10, 40, 20)]
    assert "rows are outlines: the smallest box around each is taken" in remarks


def test_outlines_of_different_length_are_outlines(tmp_path):
    rows = [[0, 0.1, 0.1, 0.3, 0.1, 0.2, 0.4], [1, 0.5, 0.5, 0.7, 0.5, 0.8, 0.6, 0.7, 0.8, 0.5, 0.7], [0, *[0.5] * 4]]
    assert in_rows(tmp_path, rows)[0] == [(20, 10, 40, 30), (100, 50, 60, 30), (50, 25, 100, 50)]


def test_rows_that_could_be_either_are_refused_until_the_description_says_it(tmp_path):
    rows = [face(0.5, 0.5, 0.5, 0.5)]  # one large face in the middle: the numbers are those of an outline as well
    labelled(tmp_path / "set", "images/a.jpg", row=rows_of(*rows))
    file = write(tmp_path / "set" / "data.yaml", "train: images\nnames: [x]\n")
    message = refused(tmp_path / "set", tmp_path / "out", r"kpt_shape: \[number of points, 2 or 3\]")
    assert "a.txt, line 1: 15 numbers" in message and "task: segment" in message
    file.write_text("train: images\nnames: [x]\nkpt_shape: [5, 2]\n")
    assert converted(tmp_path / "set", tmp_path / "1", "yolo")[1] == {"a.jpg": [BOX]}
    file.write_text("train: images\nnames: [x]\ntask: segment\n")
    assert converted(tmp_path / "set", tmp_path / "2", "yolo")[1] != {"a.jpg": [BOX]}


def test_a_confidence_behind_every_box_is_left_off(tmp_path):
    boxes, remarks = in_rows(tmp_path, "0 0.5 0.5 0.5 0.5 0.91\n1 0.5 0.5 0.5 0.5 0.2\n")
    assert boxes == [(50, 25, 100, 50)] * 2 and "rows have a sixth number, a confidence: left off" in remarks
    write(tmp_path / "set" / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5 17\n")  # the number of a track
    refused(tmp_path / "set", tmp_path / "out2", "line 1: 6 numbers.*Remove its column")


def test_a_confidence_before_the_box_is_not_read_as_a_centre(tmp_path):
    rows = "".join(f"0 0.9 {0.3 + i / 40} 0.6 0.5 0.2\n" for i in range(12))
    labelled(tmp_path / "set", "images/a.jpg", row=rows)
    refused(tmp_path / "set", tmp_path / "out", "line 1: 6 numbers.*Remove its column", categories="x")


def test_corners_in_place_of_centre_and_sides_are_refused(tmp_path):
    rows = "".join(f"0 {0.4 + i / 50} 0.5 {0.6 + i / 40} 0.9\n" for i in range(12))
    labelled(tmp_path / "set", "images/a.jpg", row=rows)
    refused(tmp_path / "set", tmp_path / "out", "class, left, top, right, bottom", categories="x")


def test_a_split_that_is_not_there_is_refused_also_in_a_folder_of_its_name(tmp_path):
    labelled(tmp_path / "val", "images/train/a.jpg")
    write(tmp_path / "val" / "data.yaml", "train: images/train\nval: images/val\nnames: [x]\n")
    refused(tmp_path / "val", tmp_path / "out", "'val' is 'images/val', and no images are there")


def test_a_line_of_the_class_list_that_looks_like_a_comment_is_refused(tmp_path):
    labelled(tmp_path / "set", "images/a.jpg")
    file = write(tmp_path / "set" / "classes.txt", "# my classes\ncup\n")
    refused(tmp_path / "set", tmp_path / "out", "classes.txt, line 1: '# my classes' is a class by its position")
    file.write_text("cup\n")
    assert converted(tmp_path / "set", tmp_path / "out", "yolo")[1] == {"a.jpg": [("cup", *BOX[1:])]}


@pytest.mark.parametrize(
    "row",
    ["0\t0.5\t0.5\t0.5\t0.5\t\r\n", "\ufeff0 0.5 0.5 0.5 0.5  \r\n\r\n", "0,0.5,0.5,0.5,0.5", "0, 0.5, 0.5, 0.5, 0.5\n",
     "0 0,5 0,5 0,5 0,5\n", "0;0.5;0.5;0.5;0.5", "0.0 5e-1 .5 +0.5 0.50\n"],
)  # fmt: skip
def test_rows_with_tabs_commas_blanks_and_marks_are_the_same_row(tmp_path, row):
    assert in_rows(tmp_path, row)[0] == [(50, 25, 100, 50)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.1", "line 2: 4 numbers"), ("0 .5 .5 .1 .1 .9", "score"), ("7 .5 .5 .1 .1", "class 7 has no name"),
        ("0 .5 .5 nan .1", "line 2: a coordinate"), ("0 .5 .5 a .1", "should be a number"),
        ("0.5 .5 .5 .1 .1", "class 0.5"), ("cat .5 .5 .1 .1", "the class should be a number"),
        ("-1 .5 .5 .1 .1", "class -1"), ("0 120 50 40 40", "fractions"), ("0 12 5 4 4", "Divide pixels by the width"),
        ("0 1e400 .5 .1 .1", "line 2"), ("0 1,200 .5 .1 .1", "comma"), ("0 .5 .5 .1 .1 .9 17", "line 2: 7 numbers"),
    ],
)  # fmt: skip
def test_a_bad_yolo_row_is_refused_with_file_and_line(tmp_path, row, message):
    labelled(tmp_path / "set", "images/a.jpg", row=f"0 0.5 0.5 0.1 0.1\n{row}\n")
    assert "a.txt, line 2" in refused(tmp_path / "set", tmp_path / "out", message, categories="x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_boxes_that_reach_over_the_edge_are_cut_and_negative_ones_counted(tmp_path):
    labelled(tmp_path / "set", "images/a.jpg", row="0 0.0 0.5 0.2 0.2\n0 0.5 0.5 -0.1 0.1\n0 1.4 0.5 0.1 0.1\n")
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "yolo", categories="x")
    assert found == {"a.jpg": [("x", 0, pytest.approx(40), pytest.approx(20), pytest.approx(20))]}
    assert result.left_out("boxes") == {"negative width or height": 1, "wholly outside of its image": 1}
    assert result.changed == {"box cut at the edge of its image": 1}


@pytest.mark.parametrize(
    "row",
    [
        "684,8,273,116,1,4,0,0",
        "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56",
    ],
    ids=["VisDrone", "KITTI"],
)
def test_rows_of_another_data_set_are_refused_by_line_without_advice_about_landmarks(tmp_path, row):
    labelled(tmp_path / "set", "images/a.jpg", row=row)
    write(tmp_path / "set" / "data.yaml", "train: images\nnames: [x]\n")
    message = refused(tmp_path / "set", tmp_path / "out", "this is not YOLO. Convert the labels to COCO")
    assert "a.txt, line 1" in message and "kpt_shape" not in message
