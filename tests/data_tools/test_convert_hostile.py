"""What is broken or means harm is refused with one message that names file and place, and leaves nothing behind."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import pytest
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.json_stream import CHUNK, list_records, object_records
from data_tools.convert.records import files_below
from data_tools.convert.report import FILE as REPORT
from data_tools.convert.report import Options
from dfine_lib.data.images import DataError
from dfine_tools.cli import main

DEEP = 10**6
BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename>'
PEEK = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename>'
COCO = {"images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}], "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]}  # fmt: skip


def refused(tmp_path, read, files, message=None, **options):
    """Convert, see the refusal, and that nothing is left."""
    source = tmp_path / "set"
    for name, content in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(DataError, match=message) as caught:
        convert(source, tmp_path / "out", read=read, options=Options(progress=False, **options))
    assert len(str(caught.value)) < 1500
    assert sorted(path for path in tmp_path.rglob("*")) == before
    return str(caught.value)


def coco(**changes):
    return json.dumps(COCO | changes)


def header_of_a_png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")  # fmt: skip


@pytest.mark.parametrize(
    ("read", "name", "text"),
    [
        ("coco", "annotations/instances_train.json", '{"images": [' + "[" * DEEP + "]" * DEEP + "]}"),
        ("coco", "annotations/instances_train.json", '{"info": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}"),
        ("objects365", "zhiyuan_objv2_train.json", '{"annotations": [{"bbox": ' + "[" * DEEP + "]" * DEEP + "}]}"),
        ("labelme", "a.json", "[" * DEEP + "]" * DEEP),
        ("createml", "a.json", "[" * DEEP + "]" * DEEP),
        ("crowdhuman", "annotation_train.odgt", '{"ID": ' + "[" * DEEP + "]" * DEEP + "}"),
        ("voc", "a.xml", "<annotation>" + "<a>" * DEEP),
        ("cvat", "a.xml", "<annotations>" + "<image>" * DEEP),
        ("yolo", "data.yaml", "names: " + "[" * 100_000 + "]" * 100_000),
    ],
)
def test_what_is_nested_without_end_is_refused(tmp_path, read, name, text):
    assert name.rpartition("/")[2] in refused(tmp_path, read, {name: text}, "nested too deeply")


@pytest.mark.parametrize("text", [BOMB, PEEK])
@pytest.mark.parametrize("read", ["voc", "cvat"])
def test_xml_with_entities_is_refused(tmp_path, read, text):
    assert "a.xml" in refused(tmp_path, read, {"a.xml": text + "</annotation>"}, "declares entities")


@pytest.mark.parametrize(
    "value", ["1e999", "9" * 400, "9" * 5000, "NaN", "-Infinity", "1e30", '"a"', "null", "[1]", "true"]
)
def test_a_number_that_is_none_names_its_record(tmp_path, value):
    text = coco(annotations=[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, "HERE", 5]}])
    text = text.replace('"HERE"', value)
    told = refused(tmp_path, "coco", {"instances_train.json": text})
    assert "instances_train.json" in told and "annotations[0]" in told and "sys." not in told
    line = (
        f'{{"ID": "a", "gtboxes": []}}\n{{"ID": "b", "gtboxes": [{{"tag": "person", "fbox": [1, 1, {value}, 5]}}]}}\n'
    )
    (tmp_path / "crowd").mkdir()
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("file_name,width,height\na.jpg,9,9\nb.jpg,9,9\n")
    told = refused(tmp_path / "crowd", "crowdhuman", {"annotation_train.odgt": line}, sizes=sizes)
    assert "annotation_train.odgt, line 2" in told and "sys." not in told


@pytest.mark.parametrize("value", [10**30, 2**63, 1.5, -1, None, [1], True])
def test_ids_that_are_no_ids_are_refused(tmp_path, value):
    (tmp_path / "one").mkdir()
    image = {**COCO["images"][0], "id": value}
    refused(tmp_path / "one", "coco", {"instances_train.json": coco(images=[image])}, r"images\[0\]: 'id'")
    (tmp_path / "two").mkdir()
    box = {**COCO["annotations"][0], "category_id": value}
    refused(tmp_path / "two", "coco", {"instances_train.json": coco(annotations=[box])}, r"annotations\[0\]: 'category")


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/passwd", "x/../../a.png", "C:\\a.png", "..\\a.png", "a\0.png", "", " ", "."]
)
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path, name):
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    image = {**COCO["images"][0], "file_name": name}
    (tmp_path / "coco").mkdir()
    told = refused(tmp_path / "coco", "coco", {"instances_train.json": coco(images=[image])}, "file name")
    assert "images[0]" in told or "image id 1" in told
    (tmp_path / "csv").mkdir()
    if "\0" not in name and name.strip():
        rows = f'filename,class,xmin,ymin,xmax,ymax\n"{name}",x,1,1,2,2\n'
        assert "line 2" in refused(tmp_path / "csv", "csv", {"rows.csv": rows}, "file name")


def test_coco_names_of_another_machine_are_cut_to_their_last_part_where_the_folder_is_named(tmp_path):
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    image = {**COCO["images"][0], "file_name": "C:\\photos\\a.png"}
    (tmp_path / "set").mkdir()
    (tmp_path / "set/all.json").write_text(coco(images=[image]))
    options = Options(images=tmp_path, progress=False)
    convert(tmp_path / "set/all.json", tmp_path / "out", read="coco", options=options)
    made = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in made["images"]] == ["a.png"]
    assert (tmp_path / "out/images/train/a.png").is_file()


def test_labelme_may_climb_inside_the_folder_but_not_out_of_it(tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "b.png")
    shape = {"label": "x", "points": [[1, 1], [4, 4]]}
    record = {"imagePath": "../../b.png", "imageWidth": 5, "imageHeight": 5, "shapes": [shape]}
    (tmp_path / "set").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "set" / "c.png")
    refused(tmp_path, "labelme", {"labels/a.json": json.dumps(record)}, "image missing")


def test_links_that_lead_out_are_refused_until_they_are_trusted(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("L", (20, 10)).save(outside / "a.png")
    (tmp_path / "set" / "images" / "train").mkdir(parents=True)
    (tmp_path / "set" / "images" / "train" / "a.png").symlink_to(outside / "a.png")
    told = refused(tmp_path, "coco", {"annotations/instances_train.json": coco()}, "leads out of")
    assert "--follow-links" in told
    convert(tmp_path / "set", tmp_path / "out", read="coco", options=Options(progress=False, follow_links=True))
    assert not (tmp_path / "out" / "images" / "train" / "a.png").is_symlink()


def test_an_annotation_file_or_folder_that_is_a_link_out_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    (tmp_path / "set" / "labels").mkdir(parents=True)
    (tmp_path / "set" / "labels" / "a.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "set" / "images").mkdir()
    Image.new("L", (20, 10)).save(tmp_path / "set" / "images" / "a.png")
    told = refused(tmp_path, "yolo", {"data.yaml": "names: [x]"}, "leads out of")
    assert "root:x" not in told


def test_a_bomb_of_a_picture_is_refused_by_its_header(tmp_path):
    files = {"a.png": header_of_a_png(50_000, 50_000), "a.xml": "<annotation><filename>a.png</filename></annotation>"}
    assert "a.png" in refused(tmp_path, "voc", files, "refused: Image size")


def test_a_damaged_picture_is_left_out_and_listed(tmp_path):
    (tmp_path / "set").mkdir()
    Image.new("L", (20, 10)).save(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "b.png").write_bytes(b"no picture")
    box = "<object><name>x</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    for name in "ab":
        text = f"<annotation><filename>{name}.png</filename>{box}</annotation>"
        (tmp_path / "set" / f"{name}.xml").write_text(text)
    result = convert(tmp_path / "set", tmp_path / "out", read="voc", options=Options(progress=False))
    assert result.images == {"train": 1}
    assert result.left_out("records") == {"image unreadable (UnidentifiedImageError)": 1}
    assert result.left_out("boxes") == {"image left out": 1}
    listed = json.loads((tmp_path / "out" / REPORT).read_text())["listed"]
    assert {entry["kind"] for entry in listed} == {"records", "boxes", "images"}
    assert all("set/b." in entry["where"] for entry in listed)


@pytest.mark.parametrize(
    ("read", "files", "message"),
    [
        ("coco", {"instances_train.json": coco()[:-30]}, "no valid JSON|ends in the middle"),
        ("coco", {"instances_train.json": "[]"}, "a list, not the object that a COCO file is"),
        ("coco", {"instances_train.json": '{"images": []}'}, r"no list 'annotations' \(keys: 'images'\)"),
        ("coco", {"instances_train.json": coco(images=COCO["images"] * 2)}, "second image with id 1"),
        ("coco", {"instances_train.json": coco(categories=[])}, "no box is left.*its category is not listed"),
        ("coco", {"instances_train.json": coco(images=[])}, "no image is left"),
        ("coco", {"instances_train.json": coco(images=[3])}, r"images\[0\]: expected an object"),
        ("coco", {"instances_train.json": coco().encode("utf-16")[:-31]}, "instances_train.json"),
        ("coco", {"instances_train.json": coco() + "x"}, "after the end"),
        ("coco", {"a.txt": coco()}, "no JSON file.*--images"),
        ("voc", {"a.xml": "<annotation><object></annotation>"}, "no valid XML"),
        ("voc", {"a.xml": "<html></html>"}, "no <annotation>"),
        (
            "voc",
            {"a.xml": "<annotation><object><name>x</name><bndbox><xmax>1</xmax></bndbox></object></annotation>"},
            "object 1: xmin",
        ),
        ("voc", {"a.txt": ""}, "no VOC annotation files"),
        ("cvat", {"a.xml": "<annotations><track/></annotations>"}, "track 1: label should be text"),
        ("crowdhuman", {"annotation_train.odgt": "{}\n"}, "line 1: 'ID'"),
        ("crowdhuman", {"annotation_train.odgt": '{"ID": "a"'}, "line 1: no valid JSON"),
        ("yolo", {"labels/a.txt": "0 .5 .5 .1 .1"}, "no class names"),
        ("yolo", {"data.yaml": "names: {0: a, 2: b}", "a.txt": "0 1 1 1 1"}, "without gaps"),
        ("yolo", {"data.yaml": "names: [a]", "a.txt": "0 .5 .5 .1 .1"}, "size of 'a.jpg' is not known"),
        ("openimages", {"a.csv": "a,b\n1,2\n"}, "no column 'ImageID'"),
        ("openimages", {"a.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\na,x,1,50,1,50\n"}, "line 2: edges should be"),
        ("csv", {"a.csv": "foo,bar\n1,2\n"}, "line 1: the columns are not known"),
        ("csv", {"a.csv": "filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2\n"}, "line 2: 4 fields"),
        ("csv", {"a.csv": b"filename,class,xmin,ymin,xmax,ymax\n\xff,x,1,2,3,4\n"}, "UTF-8"),
        ("createml", {"a.json": '[{"image": "a.jpg", "annotations": [{"label": "x"}]}]'}, "record 0, annotations"),
        ("labelme", {"a.json": '{"imagePath": "a.jpg", "shapes": [{"label": "x"}]}'}, r"shapes\[0\]: no list 'points'"),
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path, read, files, message):
    refused(tmp_path, read, files, message)


def test_two_records_of_one_picture_are_refused(tmp_path):
    images = [COCO["images"][0], {**COCO["images"][0], "id": 2}]
    told = refused(tmp_path, "coco", {"instances_train.json": coco(images=images)}, "a second image named 'a.png'")
    assert "image id 2" in told


def test_out_is_not_overwritten_and_not_inside_the_source(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "instances_train.json").write_text(coco())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for out, message in ((tmp_path / "out", "not empty"), (tmp_path / "set" / "out", "lies inside")):
        with pytest.raises(DataError, match=message):
            convert(tmp_path / "set", out, read="coco", options=Options(progress=False))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["instances_train.json"]


def test_the_command_says_one_line_and_exits_with_2_or_sums_up_and_exits_with_0(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "instances_train.json").write_text(coco())
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "out"), "--from", "coco"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("coco → coco: 1 images (train 1), 1 boxes, 1 categories in ") and told.count("\n") == 1
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "out"), "--from", "coco"]) == 2
    told = capsys.readouterr().err
    assert "not empty" in told and told.count("\n") == 1
    assert main(["data", "convert", str(tmp_path / "nowhere"), str(tmp_path / "x"), "--from", "voc"]) == 2
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "x"), "--from", "word"]) == 2


@pytest.mark.parametrize("size", [1, 7, 64, CHUNK])
def test_records_are_the_same_wherever_the_window_ends(tmp_path, monkeypatch, size):
    monkeypatch.setattr("data_tools.convert.json_stream.CHUNK", size)
    data = {"info": {"a": [1, {"b": "ü]}"}]}, "images": [{"id": i, "n": "ä" * i, "x": -1.5e-3} for i in range(40)],
            "empty": [], "last": 12345}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8-sig")
    monkeypatch.setattr("data_tools.convert.json_stream._Reader.more.__defaults__", (size,), raising=False)
    found = list(object_records(tmp_path / "a.json"))
    assert found == [("info", -1, data["info"]), *(("images", i, row) for i, row in enumerate(data["images"])),
                     ("empty", -1, []), ("last", -1, 12345)]  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(data["images"]))
    assert [value for _, value in list_records(tmp_path / "b.json")] == data["images"]


def test_memory_holds_one_line_of_an_odgt_file_at_a_time(tmp_path):
    count, length = 1000, 20_000
    with (tmp_path / "annotation_train.odgt").open("w") as out:  # 20 MB
        for i in range(count):
            box = {"tag": "person", "fbox": [1, 1, 5, 5], "extra": {"note": "x" * length}}
            out.write(json.dumps({"ID": str(i), "gtboxes": [box]}) + "\n")
    (tmp_path / "sizes.csv").write_text("file_name,width,height\n" + "".join(f"{i}.jpg,9,9\n" for i in range(count)))
    options = Options(sizes=tmp_path / "sizes.csv", progress=False)
    tracemalloc.start()
    result = convert(tmp_path / "annotation_train.odgt", tmp_path / "out", read="crowdhuman", options=options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.images == {"train": count} and peak < count * length / 10


@pytest.mark.parametrize(
    ("read", "name"),
    [("voc", "a.xml"), ("cvat", "a.xml"), ("crowdhuman", "annotation_train.odgt"), ("labelme", "a.json"),
     ("createml", "a.json"), ("csv", "a.csv"), ("openimages", "a.csv"), ("coco", "instances_train.json")],
)  # fmt: skip
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, read, name):
    (tmp_path / "set").mkdir()
    os.mkfifo(tmp_path / "set" / name)
    refused(tmp_path, read, {}, "not a file")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_a_yolo_label_that_is_no_file_is_refused_and_no_picture_without_objects(tmp_path, make):
    for folder in ("images/train", "labels/train"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    (tmp_path / "set/classes.txt").write_text("cat\n")
    Image.new("RGB", (20, 10)).save(tmp_path / "set/images/train/1.png")
    make(tmp_path / "set/labels/train/1.txt")
    assert "labels/train/1.txt" in refused(tmp_path, "yolo", {}, "not a file|no such file")


@pytest.mark.parametrize("row", ["," * 3_000_000, '"a\n",' * 600_000], ids=["one line", "lines in quotes"])
def test_memory_holds_no_row_of_any_length_of_a_csv_file(tmp_path, row):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.csv").write_text("filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2,3,4\n" + row)
    tracemalloc.start()
    message = refused(tmp_path, "csv", {}, r"a\.csv, line \d+: a row of more than 1,048,576 characters")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in message and peak < 60 << 20


def test_a_pipe_in_place_of_a_picture_is_a_missing_picture(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in (1, 2)]
    (tmp_path / "set/annotations").mkdir(parents=True)
    (tmp_path / "set/images/train").mkdir(parents=True)
    (tmp_path / "set/annotations/instances_train.json").write_text(coco(images=images))
    Image.new("RGB", (20, 10)).save(tmp_path / "set/images/train/1.png")
    os.mkfifo(tmp_path / "set/images/train/2.png")
    result = convert(tmp_path / "set", tmp_path / "out", read="coco", options=Options(progress=False))
    assert result.images == {"train": 1}


def test_yaml_that_refers_to_itself_again_and_again_is_refused_at_once(tmp_path):
    rows = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)), "names: *a29"]
    refused(tmp_path, "yolo", {"data.yaml": "\n".join(rows), "a.txt": "0 .5 .5 .1 .1"}, "should be text, got list")


def test_yaml_runs_nothing(tmp_path):
    text = f"names: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']"
    refused(tmp_path, "yolo", {"data.yaml": text, "a.txt": "0 .5 .5 .1 .1"}, "no valid YAML")


def test_what_a_killed_run_left_goes_with_the_next_run(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "instances_train.json").write_text(coco())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, alive = (tmp_path / f".out.partial-{number}" for number in (gone.pid, os.getppid()))
    for folder in (left, alive):
        (folder / "images").mkdir(parents=True)
    convert(tmp_path / "set", tmp_path / "out", read="coco", options=Options(progress=False))
    assert not left.exists() and alive.exists()


def test_a_link_to_itself_is_told(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "instances_train.json").symlink_to("instances_train.json")
    with pytest.raises(DataError, match="leads back to itself"):
        convert(tmp_path / "set", tmp_path / "out", read="coco", options=Options(progress=False))


def test_a_folder_that_may_not_be_read_is_not_taken_as_empty(tmp_path, monkeypatch):
    """Root may read anything, so the refusal is played."""
    (tmp_path / "set" / "more").mkdir(parents=True)
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError):
        list(files_below(tmp_path / "set", (".xml",)))
    assert list(files_below(tmp_path / "gone", (".xml",))) == []
