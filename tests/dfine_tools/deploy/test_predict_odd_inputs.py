"""Images of every kind in one folder, and videos that are cut off or ten times as long, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dfine_tools import cli

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


def scene(height: int = 120, width: int = 160, shift: int = 0) -> np.ndarray:
    """A light square on dark ground."""
    pixels = np.full((height, width, 3), 30, np.uint8)
    pixels[height // 3 : 2 * height // 3, 50 : 50 + height // 3] = 210
    return np.roll(pixels, shift, axis=1)


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A folder of one scene in every kind of file, and one image of a single pixel."""
    folder = tmp_path_factory.mktemp("odd")
    plain = Image.fromarray(scene())
    plain.save(folder / "plain.png")
    plain.convert("RGBA").save(folder / "rgba.png")
    plain.quantize(16).save(folder / "palette.png")
    plain.quantize(16).save(folder / "palette_transparent.png", transparency=15)
    plain.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    plain.convert("L").save(folder / "grey.png")
    Image.fromarray(scene()[..., 0].astype(np.uint16) * 257).save(folder / "16_bit.png")
    Image.new("RGB", (1, 1), (200, 10, 10)).save(folder / "one_pixel.png")
    stored = {
        2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    for orientation, turn in stored.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(np.ascontiguousarray(turn(scene()))).save(folder / f"exif_{orientation}.png", exif=exif)
    return folder


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_every_kind_of_image_gives_the_boxes_of_the_plain_one(odd, tmp_path, capsys, backend, request):
    if backend != "torch":
        pytest.importorskip(backend, reason=f'{backend} is not installed: pip install -e ".[deploy]"')
    file = WEIGHTS if backend == "torch" else request.getfixturevalue("exported")
    answers = tmp_path / "found.json"
    arguments = [odd, "--weights", file, "--json", answers, "--out", tmp_path / "out", "--device", "cpu"]
    arguments += ["--backend", backend]
    assert cli.main(["predict", *map(str, arguments), "--score", "0.3"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{len(list(odd.iterdir()))} images") and "could not be read" not in captured.out
    found = {record["image"]: record for record in json.loads(answers.read_text())}
    plain = found.pop("plain.png")
    assert len(plain["detections"]) > 0
    one_pixel = found.pop("one_pixel.png")
    assert (one_pixel["width"], one_pixel["height"]) == (1, 1)
    assert all(-1 <= side <= 2 for each in one_pixel["detections"] for side in each["box_xyxy"])
    for name, record in found.items():
        assert (record["width"], record["height"]) == (160, 120), name
        best, expected = record["detections"][0], plain["detections"][0]
        assert best["name"] == expected["name"], name
        assert best["box_xyxy"] == pytest.approx(expected["box_xyxy"], abs=1.5), name
    assert len(list((tmp_path / "out").iterdir())) == len(found) + 2


def test_a_video_that_is_cut_off_gives_what_can_be_read_and_one_line(tmp_path, caplog, capsys):
    av = pytest.importorskip("av")
    from dfine_tools.deploy.video import VideoWriter

    rng = np.random.default_rng(0)
    with VideoWriter(tmp_path / "whole.mp4") as writer:
        for number in range(20):
            writer.write(rng.integers(0, 255, (64, 64, 3), np.uint8), number / 10)
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(tmp_path / "cut.mp4"), "w", format="mp4", options={"movflags": "faststart"}) as copy,
    ):  # the index first, so that the beginning can be read without the end
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    answers = tmp_path / "found.json"
    words = ["predict", tmp_path / "cut.mp4", "--weights", WEIGHTS, "--json", answers, "--device", "cpu"]
    assert cli.main([*map(str, words)]) == 0
    assert 3 < len(json.loads(answers.read_text())) < 19
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "frames could be read" in warnings[0] and "Traceback" not in capsys.readouterr().err

    (tmp_path / "end_only.mp4").write_bytes(content[-200:])
    assert cli.main(["predict", str(tmp_path / "end_only.mp4"), "--weights", str(WEIGHTS), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dfine predict: ") and "end_only.mp4" in line


@pytest.mark.parametrize("name", ["car_clip.mp4", "person_clip.mp4"])
def test_real_videos_give_an_answer_for_every_frame(name, tmp_path, exported):
    clip = ROOT.parent / "shared" / "data" / "video" / name
    if not clip.is_file():
        pytest.skip(f"no shared/data/video/{name} on this machine")
    pytest.importorskip("av")
    answers = tmp_path / "found.json"
    words = ["predict", clip, "--weights", exported, "--json", answers, "--out", tmp_path / "out", "--device", "cpu"]
    assert cli.main([*map(str, words), "--score", "0.05"]) == 0
    records = json.loads(answers.read_text())
    assert [record["frame"] for record in records] == list(range(50)) and (tmp_path / "out" / name).stat().st_size > 0
    assert all((record["width"], record["height"]) == (640, 360) for record in records)


PEAK = """
import resource, sys
from dfine_tools import cli
status = cli.main(sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_video_ten_times_as_long_takes_no_more_memory(tmp_path):
    pytest.importorskip("av")
    from dfine_tools.deploy.video import VideoWriter

    peaks = {}
    for frames in (20, 200):
        clip = tmp_path / f"{frames}.mp4"
        with VideoWriter(clip) as writer:
            for number in range(frames):
                writer.write(scene(360, 640, 4 * number), number / 25)
        words = ["predict", clip, "--weights", WEIGHTS, "--json", tmp_path / f"{frames}.json", "--device", "cpu"]
        run = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        status, peak = map(int, run.stdout.split()[-2:])
        assert status == 0 and len(json.loads((tmp_path / f"{frames}.json").read_text())) == frames
        peaks[frames] = peak
    assert peaks[200] < 1.05 * peaks[20], peaks
