"""Videos, streams and cameras, frame by frame; and annotated videos out. Needs the extra `video` (PyAV)."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.sources import Frame, VideoSource

log = logging.getLogger(__name__)
_TIMEOUT_S = 10.0  # without a byte from a stream
_TICKS = 12800  # of a second, in what is written; whole for 25, 50, 12.5, 10 frames a second
_EDGE_FRAMES = 2  # that a whole file may count, and not show


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise SourceError('videos need the package av: pip install -e ".[video]"') from error
    # Its log stays off, as PyAV leaves it: with any level a message of FFmpeg's threads waits for Python, which may be
    # waiting for these threads to end.
    return av


class VideoReader:
    """The frames of a video, one at a time; nothing is kept.

    Damaged frames are left out, and reported in one line (a warning) at the end.

    Args:
        source: which video; opened here, closed after the last frame.

    Raises:
        SourceError: it cannot be opened, or holds no video; while reading: not one frame could be read.

    Attributes:
        live: frames come in their own time, and without end: a camera, a stream. A video file behind an address is not
            live: it waits for its reader, who gets every frame.
        missing: frames that the file counts and that could not be read; known after the last.
    """

    def __init__(self, source: VideoSource) -> None:
        self.source = source
        self.rate: Fraction = Fraction(25)  # frames a second
        self.count: int | None = None  # frames, as the file says
        self.live, self.missing = bool(source.live), 0
        if isinstance(source.location, int):
            self._camera = _open_camera(source.location)
            return
        av, self._camera = _av(), None
        timeout = dict(timeout=(_TIMEOUT_S, _TIMEOUT_S)) if source.remote else {}
        try:
            self._container = av.open(source.location, **timeout)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{source.location}: cannot be opened as a video ({_reason(error)}).") from error
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{source.location}: holds no video.")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)  # old name
        self.count = self._stream.frames or None
        if source.live is None:
            self.live = not _ends(self._container)

    def close(self) -> None:
        """Let go of a video that is not read to its end."""
        if self._camera is not None:
            self._camera.release()
        else:
            self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        return self._of_camera() if self._camera is not None else self._of_container()

    def _of_container(self) -> Iterator[Frame]:
        av, count, problem, first_s = _av(), 0, "", None
        where = self.source.location
        with self._container:
            packets = self._container.demux(self._stream)
            while True:
                try:
                    packet = next(packets, None)
                    if packet is None:
                        break
                    frames = packet.decode()
                except av.error.InvalidDataError as error:  # this packet; the next may be sound
                    problem = _reason(error)
                    continue
                except (av.error.FFmpegError, OSError) as error:
                    problem = _reason(error)
                    break
                for frame in frames:
                    pixels = frame.to_ndarray(format="rgb24")
                    turn = round(getattr(frame, "rotation", 0) / 90) % 4
                    if turn:
                        pixels = np.ascontiguousarray(np.rot90(pixels, turn))
                    time_s = frame.time if frame.time is not None else float(count / self.rate)
                    first_s = time_s if first_s is None else first_s
                    yield _frame(pixels, count, time_s - first_s)
                    count += 1
        if not count:
            raise SourceError(f"{where}: not one frame could be read ({problem or 'the file ends before the first'}).")
        missing = (self.count or 0) - count
        if problem or missing > _EDGE_FRAMES:
            self.missing = max(0, missing)
            of = f" of {self.count}" if self.count else ""
            log.warning("%s: %d%s frames could be read; the rest is missing or damaged.", where, count, of)

    def _of_camera(self) -> Iterator[Frame]:
        count, start = 0, time.monotonic()
        try:
            while True:
                good, pixels = self._camera.read()  # [H, W, 3], BGR
                if not good:
                    break
                yield _frame(np.ascontiguousarray(pixels[..., ::-1]), count, time.monotonic() - start)
                count += 1
        finally:
            self._camera.release()
        if not count:
            raise SourceError(f"camera {self.source.location}: gives no images. Does another program use it?")


def _ends(container: Any) -> bool:
    """Whether what is behind an address has an end: it says how long it lasts, or its server how many bytes it has."""
    # A playlist's size is not that of its video: of a live one the duration is unknown.
    return container.duration is not None or (container.format.name != "hls" and container.size > 0)


def _frame(pixels: np.ndarray, number: int, time_s: float) -> Frame:
    return Frame(torch.from_numpy(pixels).permute(2, 0, 1), f"frame {number}", None, number, time_s)


def _open_camera(number: int) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise SourceError("cameras need OpenCV: pip install opencv-python-headless") from error
    with contextlib.suppress(AttributeError):  # problems are reported here, once
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise SourceError(f"camera {number}: there is none, or it is not to be opened. Try another number.")
    return camera


class VideoWriter:
    """An MP4 file, written frame by frame; it takes its name only once it is whole.

    Args:
        path: file to write; a file there is replaced in the end.

    Raises:
        SourceError: PyAV is missing.
    """

    def __init__(self, path: Path | str) -> None:
        self._av = _av()
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        self._container = self._stream = None
        self._last_tick, self._step = -1, 0

    def write(self, pixels: np.ndarray, time_s: float) -> None:
        """Add a frame, uint8 `[H, W, 3]`, that is shown at this time; times rise.

        Frames of another size than the first are fitted to it.
        """
        if self._container is None:
            codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
            self._container = self._av.open(str(self._temporary), "w", format="mp4")
            self._stream = self._container.add_stream(codec, rate=25)  # the frames' own times decide
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream.height, self._stream.width = (side + side % 2 for side in pixels.shape[:2])
            self._stream.pix_fmt = "yuv420p"
            if codec == "libx264":
                self._stream.options = {"preset": "veryfast", "crf": "20"}
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:  # half as many colours as pixels each way: sides must be even
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if (frame.width, frame.height) != (self._stream.width, self._stream.height):
            frame = frame.reformat(self._stream.width, self._stream.height)
        tick = max(self._last_tick + 1, round(time_s * _TICKS))
        frame.pts, frame.time_base = tick, Fraction(1, _TICKS)
        self._step, self._last_tick = tick - self._last_tick, tick
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if not packet.duration:  # without it the last frame is shown for no time
                packet.duration = self._step
            self._container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is None:
            return
        whole = kind in (None, KeyboardInterrupt, GeneratorExit)  # Ctrl-C is how a camera's video ends
        try:
            if whole:
                self._mux(self._stream.encode())
            self._container.close()
            if whole:
                os.replace(self._temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink()


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error).splitlines()[0]).rstrip(".")
