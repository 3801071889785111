"""`dfine predict` as a person meets it: images and videos in, images, a video and JSON out, or one line."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfine_tools import cli
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.predict import Predictor
from dfine_tools.deploy.predict_files import predict_files

WEIGHTS = Path(__file__).parents[3] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A light square on dark ground, as JPEG and as GIF; a file that is no image; an image in a sub-folder."""
    pixels = np.full((120, 160, 3), 30, np.uint8)
    pixels[40:80, 50:90] = 210
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.gif", "deep/a.jpg"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    return tmp_path / "in"


def dfine(*arguments: object) -> int:
    return cli.main(["predict", *map(str, arguments), "--device", "cpu"])


def test_a_folder_becomes_images_and_json(folder, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "new" / "found.json"
    assert dfine(folder, "--weights", WEIGHTS, "--out", out, "--json", file, "--score", "0.3") == 0
    said = capsys.readouterr().out
    assert said.startswith("3 images, ") and str(file) in said
    assert "4 files found: 3 taken, 1 left out (unreadable: 1)" in said
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == ["a.jpg", "b.gif.png", "deep/a.jpg"]
    records = json.loads(file.read_text())
    assert [r["image"] for r in records] == ["a.jpg", "b.gif", "deep/a.jpg"]
    (found,) = Predictor(WEIGHTS, device="cpu")(folder / "a.jpg", score=0.3)
    assert records[0] == found.to_dict() and len(found) > 0
    assert all(d["score"] >= 0.3 for r in records for d in r["detections"])


def test_several_images_are_taken_as_a_shell_gives_them(folder, capsys):
    assert dfine(folder / "a.jpg", folder / "b.gif", "--weights", WEIGHTS) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 images, ")
    assert dfine(folder / "a.jpg", folder, "--weights", WEIGHTS) == 2
    assert "a list holds single images" in capsys.readouterr().err


def test_nothing_found_is_told_with_the_way_out(folder, capfd, caplog):
    with caplog.at_level("INFO"):
        assert dfine(folder / "a.jpg", "--weights", WEIGHTS, "--score", "0.99") == 0
    assert "No detection reaches the score threshold, --score 0.99; a lower one" in caplog.text


@pytest.mark.parametrize("source", ["", "/**/*.jpg"])
def test_sub_folders_stay_apart(folder, tmp_path, source):
    assert dfine(f"{folder}{source}", "--weights", WEIGHTS, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a.jpg").is_file() and (tmp_path / "out" / "deep" / "a.jpg").is_file()


def test_without_files_each_image_is_a_line(folder, capsys):
    assert dfine(folder / "a.jpg", "--weights", WEIGHTS, "--score", "0.99") == 0
    assert capsys.readouterr().out.splitlines() == ["a.jpg: nothing found", "1 image, 0 objects"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: [f / "none", "--weights", WEIGHTS], "no such file or folder"),
        (lambda f: [f / "broken.png", "--weights", WEIGHTS], "not an image"),
        (lambda f: [f, "--weights", f / "none.onnx"], "no such file"),
        (lambda f: [f, "--weights", f / "none.pth"], "no such weights file"),
        (lambda f: [f, "--weights", WEIGHTS, "--backend", "openvino"], "cannot run it, torch can"),
        (lambda f: [f, "--weights", WEIGHTS, "--out", f], "to read; give another folder"),
        (lambda f: [f, "--weights", WEIGHTS, "--score", "2"], "score must lie in 0..1"),
        (lambda f: [f, "--weights", WEIGHTS, "--batch-size", "0"], "batch_size must be at least 1"),
        (lambda f: [f, "--weights", WEIGHTS, "--image-size", "50"], "multiple of 32"),
        (lambda f: [f, "--weights", WEIGHTS, "--image-size", "wide"], "such as 320 or 384,640"),
        (lambda f: [f, "--weights", f / "broken.png"], "not a weights file"),
        (lambda f: ["", "--weights", WEIGHTS], "the source is empty"),
        (lambda f: [f, "--weights", WEIGHTS, "--out", f / "found.jpg"], "is a file's name; give a folder"),
        (lambda f: [f, "--weights", WEIGHTS, "--out", f / "broken.png"], "is a file's name; give a folder"),
        (lambda f: [f, "--weights", WEIGHTS, "--json", f], "is a folder; give the name of a file"),
        (lambda f: [f, "--weights", WEIGHTS, "--json", "/proc/x.json"], "/proc/x.json could not be written"),
        (lambda f: [f, "--weights", WEIGHTS, "--batch_size", "2"], "(did you mean --batch-size?)"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(folder, make, message, capsys):
    before = sorted(folder.rglob("*"))
    assert dfine(*make(folder)) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and said.splitlines()[-1].startswith("dfine predict: ") and "Traceback" not in said
    assert sorted(folder.rglob("*")) == before


def test_a_video_becomes_a_video_of_the_same_length(tmp_path, capsys):
    pytest.importorskip("av")
    from dfine_tools.deploy.sources import VideoSource
    from dfine_tools.deploy.video import VideoReader, VideoWriter

    clip, pixels = tmp_path / "clip.mp4", np.full((120, 160, 3), 30, np.uint8)
    pixels[40:80, 50:90] = 210
    with VideoWriter(clip) as writer:
        for number in range(9):
            writer.write(np.roll(pixels, 4 * number, axis=1), number / 5)
    assert dfine(clip, "--weights", WEIGHTS, "--out", tmp_path / "out", "--json", tmp_path / "x.json") == 0
    assert "9 images" in capsys.readouterr().out
    drawn = list(VideoReader(VideoSource(str(tmp_path / "out" / "clip.mp4"))))
    records = json.loads((tmp_path / "x.json").read_text())
    assert len(drawn) == 9 and [r["frame"] for r in records] == list(range(9))
    assert [f.time_s for f in drawn] == pytest.approx([r["time_s"] for r in records], abs=0.01)
    assert dfine(clip, "--weights", WEIGHTS, "--out", tmp_path) == 2
    assert "the video that is read" in capsys.readouterr().err


def test_two_images_of_one_name_are_not_written_over_each_other(folder, tmp_path):
    with pytest.raises(SourceError, match="two of the images"):
        predict_files(
            Predictor(WEIGHTS, device="cpu"), [folder / "a.jpg", folder / "deep" / "a.jpg"], out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_arrays_are_written_under_their_numbers(tmp_path):
    summary = predict_files(
        Predictor(WEIGHTS, device="cpu"), [np.zeros((20, 30, 3), np.uint8)] * 3, out=tmp_path / "out", progress=False
    )
    assert summary.images == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["image_0.png", "image_1.png", "image_2.png"]


def test_answers_go_into_a_pipe_which_stays_one(folder, tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.extend(json.loads(pipe.read_text())))
    reader.start()
    assert dfine(folder / "a.jpg", "--weights", WEIGHTS, "--json", pipe) == 0
    reader.join(10)
    assert pipe.is_fifo() and [record["image"] for record in found] == ["a.jpg"]


def test_of_a_link_to_answers_the_file_is_written_anew(folder, tmp_path):
    (tmp_path / "answers.json").write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to("answers.json")
    assert dfine(folder / "a.jpg", "--weights", WEIGHTS, "--json", link) == 0
    assert link.is_symlink() and len(json.loads((tmp_path / "answers.json").read_text())) == 1


def test_a_folder_without_an_image_that_can_be_read_ends_with_exit_code_1(tmp_path, capsys):
    for name, files in (("empty", ()), ("raw", ("IMG_1.CR2",)), ("damaged", ("a.jpg", "b.jpg"))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"x")
        assert dfine(tmp_path / name, "--weights", WEIGHTS) == 1
        assert str(tmp_path / name) in capsys.readouterr().err
    assert dfine(tmp_path / "nowhere", "--weights", WEIGHTS) == 2
