"""Files that mean harm, or are beyond all measure: told in words, in bounded time and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from planted_faults import Folder, enormous_header

from data_tools.doctor import examine, repair
from data_tools.shapes import make_shapes
from dfine_lib.data.images import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("plain") / "set", train=6, val=2, size=64, seed=3, progress=False)


def doctor(*arguments: object, memory_bytes: int | None = None) -> subprocess.CompletedProcess:
    """`dfine doctor` in a process of its own, its address space bounded where asked."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    return subprocess.run(
        [sys.executable, "-m", "dfine_tools.cli", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/notebooks", "OMP_NUM_THREADS": "1"},
        timeout=120,
        preexec_fn=bound if memory_bytes else None,
    )


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 10**6,
        b'{"images":' * 10**6,
        b'{"images": [{"id": ' + b"9" * 10_000 + b"}]}",
        b"\xff\xfe\x00",
        b"",
        b"null",
        b"[1, 2]",
        b'"text"',
        b'{"images": [',
    ],
    ids=["lists", "objects", "digits", "bytes", "empty", "null", "list", "text", "cut off"],
)
def test_a_file_that_cannot_be_read_is_told_and_the_other_split_still_examined(plain, tmp_path, text):
    folder = Folder(plain, tmp_path / "set")
    folder.text["train"] = text
    folder.content["val"]["annotations"][0]["bbox"] = [1, 1, -5, 5]
    found = examine(folder.save())
    assert {"json_unreadable", "box_negative_side"} <= found.names


JUNK = [
    None, True, -1, 0, 1.5, 10**400, -(10**30), 1e308, float("nan"), float("inf"), "", "x", "7", "\0", "\ud800", "../x",
    "/etc/passwd", "C:\\x", "a" * 100_000, [], {}, [[]], [1], [1, 2, 3, 4, 5], [10**400] * 4, ["1", "2", "3", "4"],
    [None] * 4, [float("nan")] * 4, [1e308] * 4, [-1e308, -1e308, 1e308, 1e308], {"id": 1}, [[1, 2, 3, 4]],
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("images", "width"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("annotations", "area"),
        ("annotations", "iscrowd"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_no_value_in_any_place_stops_the_examination_or_the_repair(plain, tmp_path, table, key):
    folder = Folder(plain, tmp_path / "set")
    records = folder.content["train"][table]
    first = dict(records[0])
    for number, junk in enumerate(JUNK):
        records.append(first | ({"id": 10**6 + number} if key != "id" else {}) | {key: junk})
    if table == "categories":
        records[:] = [dict(one, name=f"{number}") if key != "name" else one for number, one in enumerate(records)]
    folder.text["train"] = json.dumps(folder.content["train"]).encode()
    found = examine(folder.save())
    assert found.of("error")
    assert found.text() and json.dumps(found.to_dict(), allow_nan=False)
    assert max(map(len, found.text().splitlines())) < 3000
    made = repair(found, tmp_path / "copy")
    assert not examine(made.out).of("error"), examine(made.out).text()


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 1, "x", {}, {"a": 1}, [None, 1, "x", [], [[]]]])
def test_no_list_of_any_kind_stops_the_examination(plain, tmp_path, key, value):
    folder = Folder(plain, tmp_path / "set")
    folder.content["train"][key] = value
    assert examine(folder.save()).of("error")


def test_names_and_links_that_leave_the_folder_are_told_and_nothing_outside_gets_into_the_copy(plain, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    folder = Folder(plain, tmp_path / "set")
    one, two, three = folder.images[:3]
    one["file_name"], two["file_name"] = "../../../secret.png", str(secret)
    folder.file(three).unlink()
    folder.file(three).symlink_to(secret)
    found = examine(folder.save())
    told = {one.name: one for one in found.findings}
    assert told["file_name_leaves_folder"].count == 2
    assert "secret.png" in told["image_link_outside"].examples[0].text
    made = repair(found, tmp_path / "copy")
    names = [
        image["file_name"]
        for image in json.loads((made.out / "annotations/instances_train.json").read_text())["images"]
    ]
    assert names == [image["file_name"] for image in folder.images[2:]]


def test_a_picture_named_by_a_path_of_another_machine_stays_in_the_copy_where_one_alone_has_its_name(plain, tmp_path):
    folder = Folder(plain, tmp_path / "set")
    one, two, three = folder.images[:3]
    kept = one["file_name"]
    one["file_name"] = f"D:\\photos\\{kept}"
    two["file_name"] = f"/home/me/{three['file_name']}"  # claimed by the third record too
    found = examine(folder.save())
    made = repair(found, tmp_path / "copy")
    assert made.counts["file_name_leaves_folder: dropped the image"] == 1
    assert made.counts[f"file_name_leaves_folder: now {kept}"] == 1
    images = json.loads((made.out / "annotations/instances_train.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [kept, *(image["file_name"] for image in folder.images[2:])]
    assert not examine(made.out).of("error")


def test_a_pipe_and_a_device_in_place_of_a_picture_do_not_hang(plain, tmp_path):
    folder = Folder(plain, tmp_path / "set")
    for image, make in zip(folder.images, (os.mkfifo, lambda path: path.symlink_to("/dev/zero"))):
        folder.file(image).unlink()
        make(folder.file(image))
    found = examine(folder.save())
    assert next(one for one in found.findings if one.name == "image_no_file").count == 2


def test_names_on_disk_that_are_no_text_or_steer_the_terminal_are_written_out(plain, tmp_path):
    from dfine_tools.pages.doctor import write_page

    folder = Folder(plain, tmp_path / "set")
    for name in (b"\xff.png", b"\x1b[31m.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "set/images/train/") + b"/" + name)).write_bytes(b"x")
    folder.images[0]["file_name"] = "\x1b]0;gone\x07.png"
    found = examine(folder.save())
    assert "image_orphan" in found.names
    assert found.text().encode() and "\x1b" not in found.text()
    assert "\x1b" not in write_page(found, tmp_path / "page.html").read_text()


def test_a_program_that_calls_itself_a_picture_is_not_run(plain, tmp_path):
    folder = Folder(plain, tmp_path / "set")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EOF\n"
    folder.file(folder.images[0]).write_bytes(program)
    (tmp_path / "set/images/train/orphan.png").write_bytes(program)
    found = examine(folder.save())
    told = next(one for one in found.findings if one.name == "image_unreadable")
    assert "EPS" in told.examples[0].text


def test_two_spellings_of_one_name_are_merged_and_never_written_through(plain, tmp_path):
    folder = Folder(plain, tmp_path / "set")
    folder.images[1]["file_name"] = "./" + folder.images[0]["file_name"]
    found = examine(folder.save())
    assert "file_name_repeated" in found.names
    made = repair(found, tmp_path / "copy")
    assert not examine(made.out).of("error")
    assert len(json.loads((made.out / "annotations/instances_train.json").read_text())["images"]) == 5


def test_a_link_that_leads_to_itself_is_a_missing_picture(plain, tmp_path):
    folder = Folder(plain, tmp_path / "set")
    path = folder.file(folder.images[0])
    path.unlink()
    path.symlink_to(path)
    assert "image_missing" in examine(folder.save()).names


def test_enormous_pictures_are_told_in_bounded_memory(plain, tmp_path):
    folder = Folder(plain, tmp_path / "set")
    for image in folder.images[:3]:
        enormous_header(Image.new("RGB", (64, 64)), folder.file(image))
    done = doctor(folder.save(), "--html", tmp_path / "page.html", memory_bytes=6 << 30)
    assert done.returncode == 1, done.stderr
    assert "image_enormous [train]" in done.stdout and "(3)" in done.stdout


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(plain, tmp_path, monkeypatch):
    folder = Folder(plain, tmp_path / "set")
    monkeypatch.setattr("data_tools.doctor.reading._memory_bytes", lambda: 1000.0)
    found = examine(folder.save())
    assert [one.name for one in found.of("error")] == ["json_unreadable", "json_unreadable"]
    assert "memory" in found.of("error")[0].examples[0].text


def test_markup_in_names_stays_text_on_the_page(plain, tmp_path):
    from dfine_tools.pages.doctor import write_page

    folder = Folder(plain, tmp_path / "set")
    folder.categories[0]["name"] = "<script>alert(1)</script>"
    folder.images[0]["file_name"] = "<img src=x onerror=alert(1)>.png"
    page = write_page(examine(folder.save()), tmp_path / "page.html").read_text()
    assert "<script" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")


def test_a_folder_that_is_not_there_and_an_output_that_is_are_refused(plain, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        examine(tmp_path / "nothing")
    found = examine(plain)
    with pytest.raises(DataError, match="exists already"):
        repair(found, tmp_path)
    with pytest.raises(DataError, match="never written to"):
        repair(found, plain / "copy")
    with pytest.raises(ValueError, match="recipe"):
        examine(plain, recipe="no_such")


def test_a_repair_that_fails_leaves_nothing_behind(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.doctor.repairs._link", lambda files, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repair(examine(plain), tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []
