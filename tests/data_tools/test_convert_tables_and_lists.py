"""CSV, Open Images, CreateML and CrowdHuman as tools and people write them."""

import json

import numpy as np
import pytest

from data_tools.convert.conversion import convert
from data_tools.convert.report import NothingLeft, Options
from dfine_lib.data.images import DataError
from dfine_tools.cli import main
from tests.data_tools.small_sets import converted, picture, write

HEADER = "filename,class,xmin,ymin,xmax,ymax\n"


def refused(source, out, read, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        convert(source, out, read=read, options=Options(progress=False, **options))
    assert not out.exists()
    return str(caught.value)


# CSV


@pytest.mark.parametrize(
    "content",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,200,100,x,10,20,40,60\n",  # TensorFlow, Roboflow
        "image;label;x;y;w;h\na.jpg;x;10,0;20,0;30,0;40,0\n",
        "a.jpg,10,20,40,60,x\nb.jpg,,,,,\n",  # RetinaNet
        "image_path,class_name,x_min,y_min,x_max,y_max\na.jpg,x,10,20,40,60\n",
        "\ufeffimage_id\tname\tleft\ttop\twidth\theight\na.jpg\tx\t10\t20\t30\t40\n",
        '"image","xmin","ymin","xmax","ymax","label"\r\n"a.jpg",10.0,20.0,40.0,60.0,"x"\r\n',  # VoTT
        "x,10,20,30,40,a.jpg,200,100\n",  # MakeSense
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\nx,10,20,30,40,a.jpg,200,100\n",
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\na.jpg;200;100;10;20;40;60;x\n",  # GTSRB
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,x,0,R1,10,20,40,60\nb,x,14,R2,nan,nan,nan,nan\n",
        "TRAIN,gs://bucket/some/a.jpg,x,0.05,0.2,,,0.2,0.6,,\nUNASSIGNED,gs://bucket/some/b.jpg\n",  # AutoML
        "TRAIN,gs://bucket/a.jpg,x,0.05,0.2,0.2,0.2,0.2,0.6,0.05,0.6\n",
        "frame,xmin,xmax,ymin,ymax,class_id\na.jpg,10,40,20,60,x\n",
    ],
)
def test_csv_in_the_forms_that_occur(tmp_path, content):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.jpg")
    write(tmp_path / "set" / "boxes.csv", content)
    _, found, _ = converted(tmp_path / "set", tmp_path / "out", "csv")
    name, box = next((name, boxes) for name, boxes in found.items() if name.endswith("a.jpg"))
    assert [(label, *(round(value, 6) for value in values)) for label, *values in box] == [("x", 10, 20, 30, 40)]
    assert sum(map(len, found.values())) == 1 and len(found) == 1 + ("b.jpg" in content or "\nb," in content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + 'a.jpg,x,"1,200",20,1300,60\n', "line 2: an edge of the box is '1,200'.*without the comma"),
        (HEADER + "a.jpg,x,0.05,0.2,0.2,0.6\n", "--fractions"),
        (HEADER + "a.jpg,x,1,2\n", "line 2: 4 fields, 6 expected"),
        (HEADER + "a.jpg,x,1,2,,4\n", "line 2: an edge of the box should be a number"),
        ("filename,split,class,xmin,ymin,xmax,ymax\na.jpg,../x,x,1,2,3,4\n", "line 2: split '../x'"),
        ("filename,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n", "no column gives the class.*--categories NAME"),
        ('image,class,bbox\na,x,"[1, 2, 30, 40]"\n', "does column bbox hold.*xmin, ymin, xmax, ymax"),
        ('image,class,bbox\na,x,"[1, 2, 30]"\n', "line 2: bbox should be 4 numbers"),
        (
            "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n",
            "VIA",
        ),
        ("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n", "--from openimages"),
        ("foo,bar\n1,2\n", "line 1: the columns are not known"),
    ],
)
def test_csv_that_cannot_be_understood_is_refused(tmp_path, content, message):
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "boxes.csv", content)
    refused(tmp_path / "set", tmp_path / "out", "csv", message)
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "out"), "--from", "csv"]) == 2


def test_one_class_for_all_boxes_and_one_field_for_a_box(tmp_path):
    for name in "abc":
        picture(tmp_path / "set" / f"{name}.jpg")
    rows = (
        'image_id,width,height,bbox,source\na,200,100,"[150.0, 20.0, 30.0, 40.0]",usask\nb,200,100,"[9,60,150,9]",q\n'
    )
    write(tmp_path / "set" / "train.csv", rows)
    _, found, _ = converted(tmp_path / "set", tmp_path / "out", "csv", categories="wheat")
    assert found == {"a.jpg": [("wheat", 150, 20, 30, 40)], "b.jpg": [("wheat", 9, 60, 150, 9)]}
    write(tmp_path / "set" / "train.csv", rows.replace("150.0, 20.0, 30.0, 40.0", "150, 20, 180, 60"))
    refused(tmp_path / "set", tmp_path / "out2", "csv", "does column bbox hold", categories="wheat")
    write(tmp_path / "set" / "train.csv", 'image,w,width,height,label,bbox\nc,0,200,100,x,"(150, 20, 180, 60)"\n')
    result, found, _ = converted(tmp_path / "set", tmp_path / "out3", "csv")
    assert found == {"c.jpg": [("x", 150, 20, 30, 40)]} and "left, top, right, bottom" in str(result.remarks)


@pytest.mark.parametrize("words", [("train", "valid", "test"), ("TRAIN", "VALIDATION", "TEST"), ("training", "dev", "te"
                                   "sting"), ("train2017", "Val", "Test")])  # fmt: skip
@pytest.mark.parametrize("where", ["column", "files", "folders"])
def test_every_name_of_a_split_is_known_in_csv(tmp_path, words, where):
    rows = [f"{i}.jpg,x,10,20,40,60" for i in range(3)]
    for i, word in enumerate(words):
        picture(tmp_path / "set" / (f"{word}/{i}.jpg" if where == "folders" else f"{i}.jpg"))
        if where == "files":
            write(tmp_path / "set" / f"{word}_labels.csv", HEADER + rows[i])
        elif where == "folders":
            write(tmp_path / "set" / word / "_annotations.CSV", HEADER + rows[i])
            write(tmp_path / "set" / word / "_classes.csv", "class,id\nx,0\n")
    if where == "column":
        rows = [f"{word},{row}" for word, row in zip(words, rows, strict=True)]
        write(tmp_path / "set" / "a.csv", "Split," + HEADER + "\n".join(rows))
    result, _, _ = converted(tmp_path / "set", tmp_path / "out", "csv")
    assert result.images == {"train": 1, "val": 1, "test": 1}
    assert result.left_out("annotation files") == ({"CSV file of other columns": 3} if where == "folders" else {})


def test_one_image_in_two_csv_files_is_refused(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    for name in ("cats", "dogs"):
        write(tmp_path / "set" / f"{name}.csv", HEADER + "a.jpg,x,1,2,30,40\n")
    message = refused(tmp_path / "set", tmp_path / "out", "csv", "Give one of the files, or write the rows of both")
    assert "dogs.csv, line 2" in message and "cats.csv" in message


def test_a_class_without_a_box_is_counted_and_its_image_taken(tmp_path):
    for name in "ab":
        picture(tmp_path / "set" / f"{name}.jpg")
    rows = "image_id,x,y,width,height,label\na.jpg,10,20,30,40,1\nb.jpg,,,,,0\n"
    write(tmp_path / "set" / "labels.csv", rows)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "csv")
    assert found == {"a.jpg": [("1", 10, 20, 30, 40)], "b.jpg": []}
    assert result.left_out("boxes") == {"class without a box": 1}
    assert result.found["boxes"] == {"found": 2, "taken": 1, "left_out": {"class without a box": 1}}


# Open Images

BOXES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


def test_openimages_groups_names_and_rows_in_any_order(tmp_path):
    for name in ("00a1", "00b2"):
        picture(tmp_path / "set" / "validation" / f"{name}.jpg")
    rows = [BOXES,
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


def test_the_other_files_of_open_images_are_counted_and_not_read(tmp_path):
    for split, name in (("train", "00a1"), ("val", "00b2")):
        picture(tmp_path / "set" / split / f"{name}.jpg")
    home = tmp_path / "set"
    write(home / "oidv6-train-annotations-bbox.csv", f"{BOXES}\n00a1,x,/m/01,1,0.1,0.2,0.5,0.75,0,0,-1")
    write(home / "validation-annotations-bbox.csv", f"{BOXES}\n00b2,x,/m/01,1,0.1,0.2,0.5,0.75,0,0,0")
    write(home / "train-annotations-object-segmentation.csv",
          "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks\n")  # fmt: skip
    write(home / "train-annotations-human-imagelabels-boxable.csv", "ImageID,Source,LabelName,Confidence\n")
    write(home / "train-images-boxable-with-rotation.csv", "ImageID,Subset,OriginalURL\n")
    write(home / "oidv7-class-descriptions-boxable.csv", "LabelName,DisplayName\n/m/01,Tree\n")
    result, found, data = converted(home, tmp_path / "out", "openimages")
    assert result.images == {"train": 1, "val": 1} and found["00a1.jpg"][0][0] == "Tree"
    assert data["annotations"][0]["iscrowd"] == 0
    assert result.left_out("annotation files") == {
        "masks of objects (their boxes are in the file of boxes)": 1, "image labels without boxes": 1,
        "CSV file of other columns": 1,
    }  # fmt: skip


# CreateML


@pytest.mark.parametrize(("image", "boxes"), [("image", "annotations"), ("imagefilename", "annotation")])
def test_createml_boxes_are_given_by_their_centre_under_the_keys_of_both_documents_of_apple(tmp_path, image, boxes):
    for name in "ab":
        picture(tmp_path / "set" / "valid" / f"{name}.jpg")
    at = {"x": 50, "y": 40, "width": 20, "height": 10}
    write(tmp_path / "set" / "valid" / "_annotations.createml.json",
          [{image: "a.jpg", boxes: [{"label": "x", "coordinates": at}]}, {image: "b.jpg", boxes: []}])  # fmt: skip
    write(tmp_path / "set" / "info.json", {"version": 1})
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "createml", split="val")
    assert found == {"a.jpg": [("x", 40, 35, 20, 10)], "b.jpg": []}
    assert result.left_out("annotation files") == {"JSON that is no list of images": 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "a.jpg", "objects": []}, "record 0: neither 'annotations' nor 'annotation'.*'image', 'objects'"),
        ({"file": "a.jpg", "annotations": []}, "record 0: neither 'image' nor 'imagefilename'.*'file', 'annotations'"),
        ({"image": "a.jpg", "annotations": [{"label": "x", "bbox": [1, 2, 3, 4]}]}, "no object 'coordinates'.*'bbox'"),
        ({"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {"xmin": 1}}]}, "no 'x' in.*'xmin'"),
    ],
)
@pytest.mark.parametrize("categories", [None, "x"])
def test_keys_that_createml_does_not_have_are_named_with_categories_or_without(tmp_path, record, message, categories):
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "annotations.json", [record])
    refused(tmp_path / "set", tmp_path / "out", "createml", message, categories=categories)


# CrowdHuman


def odgt(name, *found):
    return json.dumps({"ID": name, "gtboxes": list(found)})


def person(box, tag="person", **extra):
    return {"fbox": box, "tag": tag, "hbox": [1, 1, 5, 5], "vbox": [2, 2, 20, 20], "extra": extra, "head_attr": {}}


def test_crowdhuman_corners_outside_are_cut_and_masks_are_crowds(tmp_path):
    picture(tmp_path / "set" / "Images" / "273278,c70a.jpg")
    row = odgt("273278,c70a", person([-5, 10, 20, 95], box_id=0), person([50, 5, 10, 10], "mask", ignore=1),
               person([80, 5, 10, 10], ignore=1), person([-30, 5, 10, 10]), person([90, 5, 4, 4], ignore=0, unsure=1),
               person([9, 9, 9, 9], "dog"))  # fmt: skip
    write(tmp_path / "set" / "annotation_val.odgt", row + "\n\n")
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "crowdhuman", split="val")
    assert [row[1:] for row in found["273278,c70a.jpg"]] == [
        (0, 10, 15, 90), (50, 5, 10, 10), (80, 5, 10, 10), (90, 5, 4, 4)
    ]  # fmt: skip
    assert [box["iscrowd"] for box in data["annotations"]] == [0, 1, 1, 0]
    assert result.left_out("boxes") == {"wholly outside of its image": 1, "tag 'dog', neither person nor mask": 1}
    assert result.changed == {"box cut at the edge of its image": 1}
    assert data["categories"] == [{"id": 1, "name": "person"}]
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    places = {entry["where"].rpartition(", ")[2] for entry in report["listed"]}
    assert places == {"gtboxes[0]", "gtboxes[3]", "gtboxes[5]"}
    assert all("annotation_val.odgt, line 1" in entry["where"] for entry in report["listed"])
    _, found, _ = converted(tmp_path / "set", tmp_path / "kept", "crowdhuman", split="val", keep_outside=True)
    assert found["273278,c70a.jpg"][0][1:] == (-5, 10, 20, 95)
    _, found, _ = converted(tmp_path / "set", tmp_path / "head", "crowdhuman", split="val", person_box="head")
    assert found["273278,c70a.jpg"][0][1:] == (1, 1, 5, 5)


def test_crowdhuman_without_its_list_of_ground_truth_is_refused_and_two_files_of_a_split_are(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    file = write(tmp_path / "set" / "annotation_train.odgt", '{"ID": "a", "dtboxes": [{"box": [1, 2, 3, 4]}]}\n')
    refused(tmp_path / "set", tmp_path / "out", "crowdhuman", "line 1: no list 'gtboxes'; its lists are 'dtboxes'")
    file.write_text(odgt("a", person([1, 2, 3, 4])) + "\n" + odgt("b") + "\n")
    write(tmp_path / "set" / "training.odgt", odgt("b"))
    refused(tmp_path / "set", tmp_path / "out", "crowdhuman", "two files for split .*Give one")
    result, found, _ = converted(file, tmp_path / "out", "crowdhuman")
    assert found == {"a.jpg": [("person", 1, 2, 3, 4)]} and result.left_out("records") == {"image missing": 1}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"images": [], "annotations": [], "categories": []}, r"COCO \(say --from coco\)"),
        ({"size": {}, "objects": []}, "Supervisely"), ([{"data": {}, "annotations": []}], "Label Studio"),
        ([{"name": "a.jpg", "labels": []}], "BDD100K"),
    ],
)  # fmt: skip
def test_a_file_of_another_tool_read_as_createml_is_named(tmp_path, content, what):
    file = write(tmp_path / "set" / "a.json", content)
    for source in (file, file.parent):
        with pytest.raises(NothingLeft, match=what):
            convert(source, tmp_path / "out", read="createml", options=Options(progress=False))


@pytest.mark.parametrize(
    "read", ["voc", "labelme", "csv", "createml", "crowdhuman", "coco", "cvat", "yolo", "openimages"]
)
def test_a_source_with_nothing_of_the_format_ends_with_exit_code_1(tmp_path, read, capsys):
    write(tmp_path / "set" / "readme.md", "nothing here")
    more = ["--categories", "x"] if read == "yolo" else []
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "out"), "--from", read, *more]) == 1
    assert str(tmp_path / "set") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_csv_file_of_a_header_alone_ends_with_exit_code_1(tmp_path):
    with pytest.raises(NothingLeft, match="no rows"):
        convert(write(tmp_path / "set" / "a.csv", HEADER), tmp_path / "out", read="csv")
