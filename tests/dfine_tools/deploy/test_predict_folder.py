"""`dfine predict FOLDER`: every file in it is read, or left out by name and reason; the sums agree."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from data_tools import image_formats
from data_tools.image_formats import why_not_opened
from data_tools.ledger import Ledger
from dfine_lib.data.images import read_image
from dfine_tools import cli
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.predict import Predictor
from dfine_tools.deploy.predict_files import predict_files
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.sources import find_source

WEIGHTS = Path(__file__).parents[3] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
NO_IMAGE = "not an image by the ending of its name"
LINK = "a link, followed with --follow-links only"
HEIC = "HEIC needs the package pillow-heif (pip install pillow-heif)"


@pytest.fixture(autouse=True)
def _without_heif(monkeypatch):
    """As on a machine without the plug-in, whatever this one has."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    forget()
    yield
    forget()


def forget() -> None:
    image_formats.register_heif.cache_clear()
    image_formats.image_suffixes.cache_clear()
    image_formats._known_suffixes.cache_clear()


def scene(shift: int = 0) -> Image.Image:
    pixels = np.full((60, 80, 3), 30, np.uint8)
    pixels[20:40, 25 + shift : 45 + shift] = 210
    return Image.fromarray(pixels)


def put(folder: Path, *names: str) -> Path:
    """Images; of another ending than an image's, a few bytes."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if image_formats.is_image_name(name):
            scene().save(file, "JPEG" if file.suffix.lower() in (".jpg", ".jfif", ".jpe", ".jpeg") else None)
        else:
            file.write_bytes(b"some bytes")
    return folder


def dfine(*arguments: object) -> int:
    return cli.main(["predict", *map(str, arguments), "--weights", str(WEIGHTS), "--device", "cpu"])


def reasons(source) -> dict[str, int]:
    return source.ledger().reasons("files")


def below(source) -> list[str]:
    return [path.relative_to(source.root).as_posix() for path in source.items]


def test_every_file_of_a_folder_is_read_or_left_out_by_name_and_reason(tmp_path, capsys, caplog):
    folder = put(
        tmp_path / "in", "a.jpg", "B.JFIF", "d.jpe", "more/a.jpg", "x.jpg/ä ö.png", "IMG_1.HEIC", "raw.CR2", "noending",
        "notes.txt", "a.xml", "clip.mp4", ".DS_Store", ".thumbnails/a.jpg", "drawing.svg",
    )  # fmt: skip
    (folder / "empty.png").touch()
    (folder / "half.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "around.jpg").symlink_to("around.jpg")
    os.mkfifo(folder / "pipe.jpg")
    found = tmp_path / "found.json"
    assert dfine(folder, "--json", found, "--out", tmp_path / "out") == 0
    assert "19 files found: 5 taken, 14 left out (" in capsys.readouterr().out
    records = json.loads(found.read_text())
    assert [r["image"] for r in records] == ["B.JFIF", "a.jpg", "d.jpe", "more/a.jpg", "x.jpg/ä ö.png"]
    ledger = json.loads((tmp_path / "found.ledger.json").read_text())
    expected = {
        NO_IMAGE: ["a.xml", "noending", "notes.txt"],
        "a link that leads nowhere": ["around.jpg", "gone.jpg"],
        "unreadable": ["empty.png", "half.jpg"],
        "a hidden file": [".DS_Store"],
        "a hidden folder, not entered": [".thumbnails"],
        "a video, taken by its own name only": ["clip.mp4"],
        "not a regular file": ["pipe.jpg"],
        HEIC: ["IMG_1.HEIC"],
        why_not_opened("raw.CR2"): ["raw.CR2"],
        why_not_opened("drawing.svg"): ["drawing.svg"],
    }
    assert ledger["counts"]["files"] == {
        "found": 19, "taken": 5, "left_out": {reason: len(names) for reason, names in expected.items()}
    }  # fmt: skip
    for reason, names in expected.items():
        places = sorted(row["place"] for row in ledger["left_out"] if row["reason"] == reason)
        assert len(places) == len(names) and all(str(folder / n) in p for n, p in zip(names, places, strict=True))
        assert all(str(folder / name) in caplog.text for name in names), "named on the screen too"
    drawn = [path for path in (tmp_path / "out").rglob("*g") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in drawn) == [
        "B.JFIF.png", "a.jpg", "d.jpe.png", "more/a.jpg", "x.jpg/ä ö.png",
    ]  # fmt: skip


def test_the_ledger_of_every_source_adds_up(tmp_path):
    folder, predictor = put(tmp_path, "a.jpg", "more/b.png", "notes.txt"), Predictor(WEIGHTS, device="cpu")
    (folder / "c.png").touch()
    for source, found, taken in (
        (folder, 4, 2), (f"{folder}/*", 3, 1), ([folder / "a.jpg", folder / "c.png"], 2, 1),
        (folder / "a.jpg", 1, 1), ([np.zeros((8, 8, 3), np.uint8)] * 3, 3, 3),
        ([folder / "a.jpg", np.zeros((8, 8, 3), np.uint8)], 2, 2),
    ):  # fmt: skip
        predictor(source)
        (kind,) = predictor.ledger.kinds()
        assert (predictor.ledger.number_found(kind), predictor.ledger.number_taken(kind)) == (found, taken)
        predictor.ledger.check()


def test_sums_that_disagree_are_an_error_of_the_library(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "b.jpg")
    monkeypatch.setattr(Ledger, "taken", lambda *_: None)
    with pytest.raises(AssertionError, match=r"files: 2 found, but 0 taken \+ 0 left out"):
        Predictor(WEIGHTS, device="cpu")(tmp_path)


def test_links_out_of_the_folder_are_followed_when_asked(tmp_path):
    put(tmp_path / "elsewhere", "far.jpg", "deep/far.jpg")
    folder = put(tmp_path / "in", "a.jpg", "sub/b.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere" / "far.jpg")
    (folder / "far").symlink_to(tmp_path / "elsewhere")
    (folder / "inside.jpg").symlink_to("a.jpg")
    (folder / "sub" / "again").symlink_to(folder)
    alone, followed = find_source(folder), find_source(folder, follow_links=True)
    assert below(alone) == ["a.jpg", "inside.jpg", "sub/b.jpg"]
    assert reasons(alone) == {LINK: 2, "a link to a folder that is read anyway": 1}
    assert below(followed) == ["a.jpg", "far/deep/far.jpg", "far/far.jpg", "inside.jpg", "link.jpg", "sub/b.jpg"]
    assert reasons(followed) == {"a link to a folder that is read anyway": 1}
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)  # around in a circle, and every folder once
    assert below(find_source(folder, follow_links=True)).count("far/far.jpg") == 1


def test_a_folder_of_links_says_how_they_are_followed(tmp_path, capsys):
    put(tmp_path / "elsewhere", "far.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "elsewhere" / "far.jpg")
    assert dfine(tmp_path / "in") == 1
    assert "1 file found: 0 taken, 1 left out (a link, followed with --follow-links only: 1)" in capsys.readouterr().err
    assert dfine(tmp_path / "in", "--follow-links") == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.HEIC", "b.heic", "c.txt"],
            rf"0 taken, 3 left out \({HEIC.replace('(', '.').replace(')', '.')}: 2, not an",
        ),
        (["c.txt", "sub/d.xml", "e.dng"], rf"3 files found: 0 taken, 3 left out \({NO_IMAGE}: 2, camera raw"),
        (["clip.mp4"], r"a video, taken by its own name only: 1"),
        ([], "the folder is empty"),
    ],
)
def test_a_folder_without_one_readable_image_is_a_failure_with_the_reason_that_took_most(tmp_path, names, message):
    with pytest.raises(SourceError, match=message):
        find_source(put(tmp_path, *names))


def test_a_folder_of_damaged_images_is_a_failure(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    assert dfine(tmp_path, "--json", tmp_path / "found.json") == 1
    assert f"3 files found: 0 taken, 3 left out (unreadable: 2, {NO_IMAGE}: 1)" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_sub_folder_that_cannot_be_listed_is_left_out(tmp_path, monkeypatch):
    folder, scandir = put(tmp_path, "a.jpg", "locked/b.jpg"), os.scandir

    def refused(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    source = find_source(folder)
    assert below(source) == ["a.jpg"]
    assert source.left_out == (("a folder that cannot be listed (Permission denied)", folder / "locked"),)


def test_what_an_earlier_call_wrote_into_the_folder_is_not_read_again(tmp_path, capsys):
    folder = put(tmp_path, "a.jpg", "sub/b.jpg")
    for _ in range(2):
        assert dfine(folder, "--out", folder / "found") == 0
    assert "4 files found: 2 taken, 2 left out (in the folder for results: 2)" in capsys.readouterr().out
    assert len(list((folder / "found").rglob("*.jpg"))) == 2


def test_of_several_frames_the_first_is_used_and_their_number_reported(tmp_path, capsys):
    frames = [scene(3 * number) for number in range(5)]
    for name in ("a.gif", "b.tif", "c.webp", "d.png", "e.mpo"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    put(tmp_path, "one.jpg", "one.gif")
    assert dfine(tmp_path, "--json", tmp_path / "x" / "found.json") == 0
    said = capsys.readouterr().out
    assert "25 frames found: 5 taken, 20 left out (only the first frame of an image is used: 20)" in said
    listed = json.loads((tmp_path / "x" / "found.ledger.json").read_text())["left_out"]
    assert [row["place"] for row in listed] == [
        str(tmp_path / n) for n in ("a.gif", "b.tif", "c.webp", "d.png", "e.mpo")
    ]
    first = np.asarray(frames[0]).astype(int)
    source = find_source(tmp_path)
    for number, path in enumerate(source.items):
        pixels = source.read(number).image.permute(1, 2, 0).numpy().astype(int)
        assert np.abs(pixels - first).mean() < 3, path


def test_heic_is_read_with_its_plug_in_in_whatever_process_reads(tmp_path, monkeypatch):
    """A plug-in of ours stands for pillow-heif: it opens a file that begins as HEIC does, and nobody registered it."""
    folder = put(tmp_path, "IMG_1.HEIC")
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic and so on")
    with pytest.raises(ValueError, match=r"IMG_1\.HEIC: HEIC needs the package pillow-heif"):
        read_image(folder / "IMG_1.HEIC")

    class Heif(ImageFile.ImageFile):
        format, format_description = "HEIF", "stands for pillow-heif"

        def _open(self) -> None:
            self._size, self._mode = (80, 60), "RGB"

        def load(self):
            self.im = scene().im
            return Image.Image.load(self)

    def register() -> None:
        Image.register_open("HEIF", Heif, lambda head: head[4:12] == b"ftypheic")

    plug_in = types.ModuleType("pillow_heif")
    plug_in.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    forget()
    try:
        assert read_image(folder / "IMG_1.HEIC").shape == (3, 60, 80)
        assert below(find_source(folder)) == ["IMG_1.HEIC"]
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")


def test_a_name_that_is_no_unicode_costs_nothing(tmp_path, capsys):
    folder = put(tmp_path, "a.jpg")
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (folder / name).write_bytes((folder / "a.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    assert dfine(folder, "--json", tmp_path / "out" / "found.json") == 0
    assert [r["image"] for r in json.loads((tmp_path / "out" / "found.json").read_text())] == ["a.jpg", name]
    assert dfine(folder) == 0
    assert "caf\\udce9.jpg: " in capsys.readouterr().out


class Stopped(Exception):
    """Stands for whatever may come between two images."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped, OSError(28, "No space left on device")])
def test_an_end_in_the_middle_keeps_the_finished_work_and_its_ledger(tmp_path, error, monkeypatch):
    folder, file = put(tmp_path / "in", *(f"{i}.jpg" for i in range(6)), "notes.txt"), tmp_path / "found.json"
    done = []

    def each(result: Prediction) -> None:
        done.append(result.name)
        if len(done) == 3:
            raise error

    with pytest.raises(error if isinstance(error, type) else OSError):
        predict_files(Predictor(WEIGHTS, device="cpu"), folder, json_file=file, each=each, batch_size=1)
    assert [record["image"] for record in json.loads(file.read_text())] == ["0.jpg", "1.jpg", "2.jpg"]
    counts = json.loads((tmp_path / "found.ledger.json").read_text())["counts"]["files"]
    assert counts == {"found": 7, "taken": 3, "left_out": {"not reached before the end": 3, NO_IMAGE: 1}}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found.json", "found.ledger.json", "in"]


def test_a_disk_that_is_full_keeps_every_whole_record(tmp_path, monkeypatch):
    """The third record is cut in its middle, as a full disk cuts it."""
    from dfine_tools.deploy import predict_files as module

    whole, calls = module._write, []

    def full(stream, content: bytes) -> int:
        calls.append(content)
        if len(calls) == 3:
            stream.write(content[:20])
            raise OSError(28, "No space left on device")
        return whole(stream, content)

    monkeypatch.setattr(module, "_write", full)
    folder = put(tmp_path / "in", *(f"{i}.jpg" for i in range(5)))
    with pytest.raises(OSError, match="No space"):
        predict_files(Predictor(WEIGHTS, device="cpu"), folder, json_file=tmp_path / "found.json", progress=False)
    assert [record["image"] for record in json.loads((tmp_path / "found.json").read_text())] == ["0.jpg", "1.jpg"]


def test_an_error_before_the_first_result_leaves_an_older_file_as_it_was(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "found.json").write_text("older")
    with pytest.raises(SourceError, match="none of the 2 images"):
        predict_files(Predictor(WEIGHTS, device="cpu"), tmp_path / "in", json_file=tmp_path / "found.json")
    assert (tmp_path / "found.json").read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found.json", "in"]


def test_category_ids_come_back_out_and_unknown_ones_are_null_and_said_once(tmp_path, caplog, exported):
    folder = put(tmp_path / "in", "a.jpg", "b.png")
    for weights, first in ((WEIGHTS, 1), (exported, 11)):  # trained on ids 1 to 10, exported with 11 to 20
        words = ["predict", folder, "--weights", weights, "--json", tmp_path / "found.json", "--device", "cpu"]
        assert cli.main([*map(str, words), "--score", "0.01"]) == 0
        found = [one for record in json.loads((tmp_path / "found.json").read_text()) for one in record["detections"]]
        assert found and all(one["category_id"] == one["label"] + first for one in found)
    assert "category_id is null" not in caplog.text
    predictor = Predictor(WEIGHTS, device="cpu")
    object.__setattr__(predictor.backend, "category_ids", ())
    predict_files(predictor, folder, json_file=tmp_path / "found.json", score=0.01, progress=False)
    found = [one for record in json.loads((tmp_path / "found.json").read_text()) for one in record["detections"]]
    assert found and all(one["category_id"] is None for one in found)
    assert caplog.text.count("category_id is null") == 1


def test_predictions_with_category_ids_are_read_by_the_view_of_a_data_set(tmp_path):
    from data_tools.view import read_predictions
    from dfine_lib.data import read_coco

    folder = put(tmp_path / "images", "sub/a.jpg")
    truth = {
        "images": [{"id": 5, "file_name": "sub/a.jpg", "width": 80, "height": 60}], "annotations": [],
        "categories": [{"id": 1, "name": "circle"}],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    predict_files(
        Predictor(WEIGHTS, device="cpu"), folder, json_file=tmp_path / "found.json", score=0.01, progress=False
    )
    index = read_coco(tmp_path / "truth.json", folder, training=False)
    (record,) = json.loads((tmp_path / "found.json").read_text())
    assert len(read_predictions(tmp_path / "found.json", index)[0]) == len(record["detections"]) > 0
