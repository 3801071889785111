"""A whole source into files: annotated pictures or a video, and one JSON. What `dfine predict` does."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from dfine_lib.deploy.pipeline import map_ahead
from dfine_lib.deploy.predict import Predictor
from dfine_lib.deploy.results import Prediction
from dfine_lib.deploy.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageSource, SourceError, VideoSource, find_source
from dfine_lib.deploy.video import VideoWriter


@dataclass
class Summary:
    """What came of a source."""

    images: int = 0
    objects: int = 0
    skipped: int = 0  # pictures that could not be read
    seconds: float = 0.0
    out: Path | None = None  # folder, or video, that was written
    json_file: Path | None = None

    def __str__(self) -> str:
        rate = f", {self.images / self.seconds:.1f} a second" if self.seconds > 0 and self.images > 1 else ""
        skipped = f"; {self.skipped} could not be read" if self.skipped else ""
        where = "".join(f"\n  {path}" for path in (self.out, self.json_file) if path is not None)
        things = "image" if self.images == 1 else "images"
        return f"{self.images} {things}, {self.objects} object{'s' * (self.objects != 1)}{rate}{skipped}{where}"


def predict_files(
    predictor: Predictor,
    source: Any,
    *,
    out: Path | None = None,
    json_file: Path | None = None,
    score: float = 0.4,
    batch_size: int | None = None,
    each: Callable[[Prediction], None] | None = None,
    progress: bool = True,
) -> Summary:
    """Find objects in a whole source and write them; memory does not grow with its length.

    Reading, inference, drawing and writing overlap. Ctrl-C keeps what was written.

    Args:
        source: as `find_source` takes it.
        out: folder for annotated pictures, each under its own name (and sub-folder), or for the annotated video.
        json_file: list of `Prediction.to_dict`.
        score: leave out objects below it.
        batch_size: pictures a forward pass; None: 4 for pictures and video files, 1 for cameras and streams.
        each: called with every result.
        progress: show a bar.

    Raises:
        SourceError: nothing to read; or `out` would overwrite what is read.
    """
    found = source if isinstance(source, ImageSource | VideoSource) else find_source(source)
    if out is not None:
        _check_folder(out)
    if isinstance(found, ImageSource) and out is not None:
        _check_targets(found, out)
    if batch_size is None:
        batch_size = 1 if isinstance(found, VideoSource) and found.live else min(4, _count(found))
    start, summary = time.perf_counter(), Summary(json_file=json_file)
    results = predictor.stream(
        found, score=score, batch_size=batch_size, keep_images=out is not None, progress=progress and each is None
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(results))
        record = stack.enter_context(_json_list(json_file)) if json_file is not None else None
        if out is not None:
            written = _written_images(results, found, out) if isinstance(found, ImageSource) else (
                _written_video(results, found, out / f"{Path(found.name).stem}.mp4")
            )  # fmt: skip
            summary.out = out if isinstance(found, ImageSource) else out / f"{Path(found.name).stem}.mp4"
            results = stack.enter_context(contextlib.closing(written))
        for result in results:
            summary.images += 1
            summary.objects += len(result)
            if record is not None:
                record(result.to_dict())
            if each is not None:
                each(result)
            del result
    summary.skipped, summary.seconds = len(predictor.skipped), time.perf_counter() - start
    return summary


def _count(found: ImageSource | VideoSource) -> int:
    return len(found) if isinstance(found, ImageSource) else 4


def _check_folder(out: Path) -> None:
    """Refuse what is meant as a file's name: pictures keep their own names, in a folder."""
    if out.is_file() or (out.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not out.is_dir()):
        raise SourceError(f"{out}: is a file's name; give a folder, in which each picture or video keeps its own name.")


def _check_targets(source: ImageSource, out: Path) -> None:
    """Refuse to write a picture over one that is read."""
    inputs = {Path(item).resolve() for item in source.items if isinstance(item, str | Path)}
    seen: set[Path] = set()
    for number, item in enumerate(source.items):
        target = _target(source, item, f"image_{number}.png", out).resolve()
        if target in inputs:
            raise SourceError(f"{out}: {target.name} there is one of the pictures to read; give another folder.")
        if target in seen:
            raise SourceError(f"{target}: two of the pictures would be written there; write them one set at a time.")
        seen.add(target)


def _target(source: ImageSource, item: Any, name: str, out: Path) -> Path:
    if not isinstance(item, str | Path):
        return out / name
    path = Path(item)
    inside = source.root is not None and path.is_relative_to(source.root)
    target = out / (path.relative_to(source.root) if inside else path.name)
    return target if target.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else Path(f"{target}.png")


def _written_images(results: Iterator[Prediction], source: ImageSource, out: Path) -> Iterator[Prediction]:
    """The results, each once its picture is on disk; a few are drawn at a time."""

    def write(numbered: tuple[int, Prediction]) -> Prediction:
        number, result = numbered
        result.save(_target(source, result.path, f"image_{number}.png", out))
        return replace(result, image=None)

    return map_ahead(write, enumerate(results), max(1, min(4, os.cpu_count() or 1)), ahead=8)


def _written_video(results: Iterator[Prediction], source: VideoSource, file: Path) -> Iterator[Prediction]:
    if not source.live and file.exists() and file.samefile(str(source.location)):
        raise SourceError(f"{file}: is the video that is read; give another folder.")
    with VideoWriter(file) as writer:
        drawn = map_ahead(lambda result: (replace(result, image=None), result.drawn()), results, 1, ahead=2)
        with contextlib.closing(drawn):
            for result, pixels in drawn:
                writer.write(pixels, result.time_s)
                del pixels
                yield result


@contextlib.contextmanager
def _json_list(file: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write a JSON list record by record; the file takes its name once it is whole, or was ended by Ctrl-C.

    A pipe or a device (`/dev/stdout`) is written to as it stands, never replaced.
    """
    if file.is_dir():
        raise SourceError(f"{file}: is a folder; give the name of a file for the answers.")
    file.parent.mkdir(parents=True, exist_ok=True)
    straight = file.exists() and not file.is_file()
    target = file if straight else file.resolve()  # of a link what it leads to
    temporary = target if straight else target.with_name(f".{target.name}.{os.getpid()}.part")
    first = True

    def add(record: dict[str, Any]) -> None:
        nonlocal first
        stream.write(("\n" if first else ",\n") + json.dumps(record, ensure_ascii=False))
        first = False

    def finish() -> None:
        stream.write("\n]\n")
        stream.close()
        if not straight:
            os.replace(temporary, target)

    try:
        with _opened(temporary, file) as stream:
            stream.write("[")
            try:
                yield add
            except KeyboardInterrupt:
                finish()
                raise
            finish()
    finally:
        if not straight:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _opened(temporary: Path, file: Path) -> TextIO:
    """A file to write to; an error names the file that was asked for."""
    try:
        return open(temporary, "w", encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
