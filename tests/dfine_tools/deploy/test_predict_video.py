"""Videos frame by frame: whole, truncated, rotated, from a server; and written so that they last as long."""

from __future__ import annotations

import contextlib
import http.server
import logging
import sys
import threading
import time
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dfine_lib.evaluate.postprocess import Detections
from dfine_tools.deploy.backends import Backend
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.predict import Predictor
from dfine_tools.deploy.sources import VideoSource
from dfine_tools.deploy.video import VideoReader, VideoWriter

av = pytest.importorskip("av")
FRAMES, RATE = 20, 10


def shade(number: int) -> int:
    return 20 + 10 * number


def write_video(path: Path, frames: int = FRAMES, size: tuple[int, int] = (48, 64)) -> Path:
    """Grey frames, each lighter than the one before; the top left quarter is red."""
    with VideoWriter(path) as writer:
        for number in range(frames):
            pixels = np.full((*size, 3), shade(number % FRAMES), np.uint8)
            pixels[: size[0] // 2, : size[1] // 2] = (220, 0, 0)
            writer.write(pixels, number / RATE)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "grey.mp4")


def test_frames_come_back_in_order_with_their_times(video):
    reader = VideoReader(VideoSource(str(video)))
    assert reader.count == FRAMES
    frames = list(reader)
    assert [f.number for f in frames] == list(range(FRAMES))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(FRAMES) / RATE, atol=1e-3)
    assert all(f.image.shape == (3, 48, 64) and f.name == f"frame {f.number}" for f in frames)
    for frame in frames:  # the codec loses a little
        assert abs(int(frame.image[:, 40, 50].float().mean()) - shade(frame.number)) < 8
        red = frame.image[:, 10, 10].tolist()
        assert red[0] > 180 and max(red[1:]) < 60


def test_what_is_written_lasts_as_long_as_what_was_read(video):
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(FRAMES / RATE, abs=0.02)
        assert float(stream.average_rate) == pytest.approx(RATE, rel=0.02)


def test_odd_sides_and_changing_sizes_are_written(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4") as writer:
        for number, size in enumerate([(33, 47), (33, 47), (20, 20)]):
            writer.write(np.full((*size, 3), 90, np.uint8), number / RATE)
    frames = list(VideoReader(VideoSource(str(tmp_path / "odd.mp4"))))
    assert [f.size_wh for f in frames] == [(48, 34)] * 3


def write_and_stop(file: Path, why: type[BaseException]) -> None:
    """Three frames, then an exception."""
    with VideoWriter(file) as writer:
        for number in range(3):
            writer.write(np.zeros((32, 32, 3), np.uint8), number / RATE)
        raise why


def test_a_failure_while_writing_leaves_what_stood_there(tmp_path):
    file = tmp_path / "x.mp4"
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_and_stop(file, RuntimeError)
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


def test_ctrl_c_keeps_what_was_written(tmp_path):
    file = tmp_path / "x.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(file, KeyboardInterrupt)
    assert len(list(VideoReader(VideoSource(str(file))))) == 3


def with_index_first(video: Path, out: Path) -> bytes:
    """The same packets in a file that can be read from its beginning."""
    with av.open(str(video)) as source, av.open(str(out), "w", format="mp4", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return out.read_bytes()


def test_a_truncated_video_gives_what_can_be_read_and_one_line(tmp_path, caplog):
    big = tmp_path / "big.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(big) as writer:
        for number in range(30):
            writer.write(rng.integers(0, 255, (64, 64, 3), np.uint8), number / RATE)
    cut = tmp_path / "cut.mp4"
    content = with_index_first(big, cut)
    cut.write_bytes(content[: len(content) * 6 // 10])
    with caplog.at_level(logging.WARNING):
        frames = list(VideoReader(VideoSource(str(cut))))
    assert 5 < len(frames) < 28
    (record,) = caplog.records
    assert f"{len(frames)} of 30 frames" in record.message and str(cut) in record.message


def test_a_whole_video_gives_no_warning(video, caplog):
    list(VideoReader(VideoSource(str(video))))
    assert caplog.records == []


def test_ffmpegs_threads_never_wait_for_python(video):
    list(VideoReader(VideoSource(str(video))))
    assert av.logging.get_level() is None  # with a level, closing a video that is half read hangs now and then


@pytest.mark.parametrize("content", [b"", b"no video at all" * 20], ids=["empty", "text"])
def test_what_is_no_video_is_said_in_a_line(tmp_path, content):
    file = tmp_path / "x.mp4"
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.mp4: .*video") as error:
        list(VideoReader(VideoSource(str(file))))
    assert "\n" not in str(error.value)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="holds no video"):
        VideoReader(VideoSource(str(tmp_path / "x.mp4")))


def test_a_video_that_was_held_sideways_is_turned_upright(video, tmp_path):
    content = bytearray(video.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 20 + 16  # nine numbers of 16.16, the last column 2.30
    quarter_clockwise = [0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000]
    content[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter_clockwise)
    (tmp_path / "turned.mp4").write_bytes(content)
    frame = next(iter(VideoReader(VideoSource(str(tmp_path / "turned.mp4")))))
    if frame.size_wh == (64, 48) and not hasattr(av.VideoFrame, "rotation"):
        pytest.skip("this PyAV does not tell a frame's rotation")
    assert frame.size_wh == (48, 64)
    assert frame.image[0, 10, 40] > 180 > frame.image[0, 10, 10]  # red: top left becomes top right


class Server:
    """A folder at an address, without a log; at `/endless.ts` a stream that goes on and on."""

    def __init__(self, folder: Path, endless: bytes = b"") -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_) -> None: ...

            def do_GET(self) -> None:
                if self.path != "/endless.ts":
                    return super().do_GET()
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):  # until nobody reads on
                    while True:
                        self.wfile.write(endless)
                        time.sleep(0.02)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_video_is_read_from_its_address(video):
    with Server(video.parent) as address:
        assert len(list(VideoReader(VideoSource(f"{address}/grey.mp4")))) == FRAMES
        with pytest.raises(SourceError, match="cannot be opened"):
            VideoReader(VideoSource(f"{address}/none.mp4"))


def slow_detector() -> Predictor:
    """Finds nothing, and takes longer over a frame than reading it does."""

    def answer(images: np.ndarray, sizes: np.ndarray):
        time.sleep(0.02)
        nothing = torch.zeros(0)
        return [Detections(nothing.long(), nothing.reshape(0, 4), nothing)] * len(images), None

    return Predictor(Backend("torch", None, (32, 32), ("dot",), (1,), None, "cpu", answer))


def test_of_a_video_at_an_address_no_frame_is_dropped_however_slow_the_detector(video):
    predictor = slow_detector()
    with Server(video.parent) as address:
        assert [found.frame for found in predictor(f"{address}/grey.mp4?key=1")] == list(range(FRAMES))
        assert predictor.ledger.to_dict() == {"frames": {"found": FRAMES, "taken": FRAMES, "left_out": {}}}


def test_of_a_stream_frames_that_came_too_fast_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", fake_opencv(200))
    predictor = slow_detector()
    with pytest.raises(SourceError, match="has no end"):
        predictor(0)
    taken = [found.frame for found in predictor.stream(0)]
    frames = predictor.ledger.to_dict()["frames"]
    assert frames["found"] == 200 and frames["taken"] == len(taken) < 200
    assert frames["left_out"] == {"came faster than they were looked at": 200 - len(taken)}


def test_what_ends_is_told_from_what_is_live(tmp_path):
    with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            pixels = np.full((48, 64, 3), shade(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\npart.ts\n"
    (tmp_path / "live.m3u8").write_text(playlist)
    (tmp_path / "whole.m3u8").write_text(playlist + "#EXT-X-ENDLIST\n")
    with Server(tmp_path, (tmp_path / "part.ts").read_bytes()) as address:
        for name, live in (("part.ts", False), ("whole.m3u8", False), ("live.m3u8", True), ("endless.ts", True)):
            reader = VideoReader(VideoSource(f"{address}/{name}"))
            assert reader.live == live, name
            assert live or len(list(reader)) == FRAMES
            reader.close()


def test_frames_that_a_damaged_video_lacks_are_in_the_ledger(tmp_path):
    write_video(tmp_path / "big.mp4", frames=60, size=(64, 96))
    content = with_index_first(tmp_path / "big.mp4", tmp_path / "cut.mp4")
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 8 // 10])
    predictor = slow_detector()
    taken = len(predictor(tmp_path / "cut.mp4"))
    frames = predictor.ledger.to_dict()["frames"]
    assert 0 < taken < 58
    assert frames == {"found": 60, "taken": taken, "left_out": {"missing or damaged": 60 - taken}}


def fake_opencv(frames: int) -> types.ModuleType:
    class Camera:
        def __init__(self, number: int) -> None:
            self.left, self.released = frames, False

        def isOpened(self) -> bool:
            return frames > 0

        def read(self):
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (255, 0, 0), np.uint8)  # blue: OpenCV's order is BGR

        def release(self) -> None:
            self.released = True

    module = types.ModuleType("cv2")
    module.VideoCapture = Camera
    return module


def test_a_cameras_colours_are_put_in_order(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", fake_opencv(3))
    frames = list(VideoReader(VideoSource(0)))
    assert len(frames) == 3 and frames[0].image[:, 0, 0].tolist() == [0, 0, 255]
    assert [f.time_s for f in frames] == sorted(f.time_s for f in frames)


def test_no_camera_and_no_opencv_are_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", fake_opencv(0))
    with pytest.raises(SourceError, match="camera 7: there is none"):
        VideoReader(VideoSource(7))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match="opencv-python-headless"):
        VideoReader(VideoSource(7))


def test_a_missing_av_says_what_to_install(monkeypatch, video):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"\[video\]"):
        VideoReader(VideoSource(str(video)))
