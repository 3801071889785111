"""A whole source into files: annotated images or a video, and one JSON. What `dfine predict` does."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

from data_tools.image_formats import is_image_name
from data_tools.ledger import Ledger
from dfine_lib.files import write_atomically
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.pipeline import map_ahead
from dfine_tools.deploy.predict import Predictor, opened
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.sources import VIDEO_SUFFIXES, ImageSource, VideoSource
from dfine_tools.deploy.video import VideoReader, VideoWriter

log = logging.getLogger(__name__)


@dataclass
class Summary:
    """What came of a source."""

    images: int = 0
    objects: int = 0
    skipped: int = 0  # images that could not be read
    ledger: Ledger = field(default_factory=Ledger)  # what was found in the source, taken, and left out
    seconds: float = 0.0
    out: Path | None = None  # folder, or video, that was written
    json_file: Path | None = None
    ledger_file: Path | None = None  # beside it: the ledger, and what is left out by reason and place

    def __str__(self) -> str:
        rate = f", {self.images / self.seconds:.1f} a second" if self.seconds > 0 and self.images > 1 else ""
        sums = "".join(f"\n{self.ledger.summary(kind)}" for kind in self.ledger.kinds() if self.ledger.reasons(kind))
        files = (self.out, self.json_file, self.ledger_file if sums else None)
        where = "".join(f"\n  {path}" for path in files if path is not None)
        things = "image" if self.images == 1 else "images"
        return f"{self.images} {things}, {self.objects} object{'s' * (self.objects != 1)}{rate}{sums}{where}"


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

    Reading, inference, drawing and writing overlap. Ctrl-C, a full disk, or any other error keeps what was written.
    What lies in `out` itself, where that is in the source's folder, is left out: an earlier call wrote it.

    Args:
        source: as `Predictor.stream` takes it.
        out: folder for annotated images, each under its own name (and sub-folder), or for the annotated video.
        json_file: list of `Prediction.to_dict`. Beside it, `NAME.ledger.json` tells what was found, taken and left out
            (`counts`), and lists what is left out by reason and place (`left_out`).
        score: leave out objects below it.
        batch_size: images a forward pass; None: 4 for images and video files, 1 for cameras and streams.
        each: called with every result.
        progress: show a bar.

    Raises:
        SourceError: nothing to read; or `out` would overwrite what is read.
    """
    found = opened(source)
    if out is not None:
        _check_folder(out)
    if isinstance(found, ImageSource) and out is not None:
        _check_targets(found := _without_results(found, out), out)
    if batch_size is None:
        batch_size = min(4, len(found)) if isinstance(found, ImageSource) else 1 if found.live else 4
    if json_file is not None and not predictor.backend.category_ids:
        log.warning(
            "The weights hold no category ids: category_id is null; label is the row of the class head, from 0."
        )
    start, summary, left_out = time.perf_counter(), Summary(json_file=json_file), []
    results = predictor.stream(
        found, score=score, batch_size=batch_size, keep_images=out is not None, progress=progress and each is None,
        listed=lambda *row: left_out.append(dict(zip(("kind", "reason", "place"), row, strict=True))),
    )  # fmt: skip
    skipped, summary.ledger = predictor.skipped, predictor.ledger
    with contextlib.ExitStack() as stack:
        if json_file is not None:
            stack.push(  # old name: contextlib's own
                lambda kind, *_: _write_ledger(json_file, summary, left_out, found, kind is not None)
            )
        stack.enter_context(contextlib.closing(results))
        record = stack.enter_context(_json_list(json_file)) if json_file is not None else None
        if out is not None:
            written = _written_images(results, found, out) if isinstance(found, ImageSource) else (
                _written_video(results, found.source, out / f"{Path(found.source.name).stem}.mp4")
            )  # fmt: skip
            summary.out = out if isinstance(found, ImageSource) else out / f"{Path(found.source.name).stem}.mp4"
            results = stack.enter_context(contextlib.closing(written))
        for result in results:
            summary.images += 1
            summary.objects += len(result)
            if record is not None:
                record(result.to_dict())
            if each is not None:
                each(result)
            del result
    summary.skipped, summary.seconds = len(skipped), time.perf_counter() - start
    return summary


def _without_results(source: ImageSource, out: Path) -> ImageSource:
    """The source without what lies in the folder for results, where that is a folder inside the source's."""
    folder = out.resolve()
    if source.root is None or source.root.resolve() == folder or not folder.is_relative_to(source.root.resolve()):
        return source
    results = {item for item in source.items if Path(item).resolve().is_relative_to(folder)}
    if not results:
        return source
    items = tuple(item for item in source.items if item not in results)
    if not items:
        raise SourceError(
            f"{source.root}: all images there are in {out}, the folder for results; choose another folder."
        )
    left_out = tuple(("in the folder for results", item) for item in source.items if item in results)
    return replace(source, items=items, left_out=source.left_out + left_out)


def _write_ledger(
    file: Path, summary: Summary, left_out: list[Any], found: ImageSource | VideoReader, ended: bool
) -> None:
    """What became of the source, in `NAME.ledger.json`; after an error too, if results were written before it."""
    if (ended and not summary.images) or (file.exists() and not file.is_file()):  # no file is written next to a pipe
        return
    ledger = summary.ledger
    if isinstance(found, ImageSource):
        counts = ledger.to_dict()[found.kind]
        rest = counts["found"] - counts["taken"] - sum(counts["left_out"].values())
        ledger.left_out(found.kind, "not reached before the end", found.root or "the list", rest)
    content = json.dumps({"counts": ledger.to_dict(), "left_out": left_out}, indent=1) + "\n"
    with contextlib.suppress(OSError) if ended else contextlib.nullcontext():  # the error that ended it is raised
        summary.ledger_file = file.with_name(f"{file.stem}.ledger.json")
        write_atomically(summary.ledger_file, content.encode())


def _check_folder(out: Path) -> None:
    """Refuse what is meant as a file's name: images keep their own names, in a folder."""
    if out.is_file() or ((is_image_name(out) or out.suffix.lower() in VIDEO_SUFFIXES) and not out.is_dir()):
        raise SourceError(f"{out}: is a file's name; give a folder, in which each image or video keeps its own name.")


def _check_targets(source: ImageSource, out: Path) -> None:
    """Refuse to write an image over one that is read."""
    inputs = {Path(item).resolve() for item in source.items if isinstance(item, str | Path)}
    seen: set[Path] = set()
    for number, item in enumerate(source.items):
        target = _target(source, item, f"image_{number}.png", out).resolve()
        if target in inputs:
            raise SourceError(f"{out}: {target.name} there is one of the images to read; give another folder.")
        if target in seen:
            raise SourceError(f"{target}: two of the images would be written there; write them one set at a time.")
        seen.add(target)


def _target(source: ImageSource, item: Any, name: str, out: Path) -> Path:
    if not isinstance(item, str | Path):
        return out / name
    path = Path(item)
    inside = source.root is not None and path.is_relative_to(source.root)
    target = out / (path.relative_to(source.root) if inside else path.name)
    return target if target.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else Path(f"{target}.png")


def _written_images(results: Iterator[Prediction], source: ImageSource, out: Path) -> Iterator[Prediction]:
    """The results, each once its image is on disk; a few are drawn at a time."""

    def write(numbered: tuple[int, Prediction]) -> Prediction:
        number, result = numbered
        result.save(_target(source, result.path, f"image_{number}.png", out))
        return replace(result, image=None)

    return map_ahead(write, enumerate(results), max(1, min(4, os.cpu_count() or 1)), ahead=8)


def _written_video(results: Iterator[Prediction], source: VideoSource, file: Path) -> Iterator[Prediction]:
    if not source.remote and file.exists() and isinstance(source.location, str) and file.samefile(source.location):
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
    """Write a JSON list record by record; the file takes its name once it is whole, or holds what came before an error.

    A pipe or a device (`/dev/stdout`) is written to as it stands, never replaced.
    """
    if file.is_dir():
        raise SourceError(f"{file}: is a folder; give the name of a file for the answers.")
    file.parent.mkdir(parents=True, exist_ok=True)
    straight = file.exists() and not file.is_file()
    target = file if straight else file.resolve()  # of a link what it leads to
    temporary = target if straight else target.with_name(f".{target.name}.{os.getpid()}.part")
    end = 0  # of the last whole record

    def add(record: dict[str, Any]) -> None:
        nonlocal end
        # A file name that is no Unicode is written as the escape that JSON has for it.
        text = ",\n" * (end > 0) + json.dumps(record, ensure_ascii=False)
        end += _write(stream, (text if end else "[\n" + text).encode("utf-8", "backslashreplace"))

    def finish() -> None:
        if not straight:
            stream.truncate(end)  # of a full disk, half a record
            stream.seek(end)
        _write(stream, b"\n]\n" if end else b"[\n]\n")
        stream.close()
        if not straight:
            os.replace(temporary, target)

    try:
        with _opened(temporary, file) as stream:
            try:
                yield add
            except BaseException:  # Ctrl-C, a full disk: the finished work stays
                if end:
                    with contextlib.suppress(OSError):
                        finish()
                raise
            finish()
    finally:
        if not straight:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _write(stream: RawIOBase, content: bytes) -> int:
    """All of it: a raw file may take less at a time. Returns its length."""
    left = memoryview(content)
    while left:
        left = left[stream.write(left) or 0 :]
    return len(content)


def _opened(temporary: Path, file: Path) -> RawIOBase:
    """A file to write to, without a buffer, so that what is written is there; an error names the file asked for."""
    try:
        return open(temporary, "wb", buffering=0)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
