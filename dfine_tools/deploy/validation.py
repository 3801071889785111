"""Export validation: an export is finished once the file detects what the weights detect that it was made from.

Checked are: the file is sound; it detects the same objects on photographs, in batches of any size; a repeated image
gives a repeated output; and with a data folder, the average precision is the same. What floating-point error alone
decides is reported as a tie (`ties.py`), and is no failure.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_tools.large.source import LargeFolder
from dfine_lib.data import find_split
from dfine_lib.data.coco import CocoIndex
from dfine_lib.errors import DfineError
from dfine_lib.evaluate.coco_ap import CocoEvaluator, CocoMetrics
from dfine_lib.files import write_atomically
from dfine_lib.model.dfine import DFINE
from dfine_tools.deploy.backends import BACKENDS, KINDS, Backend, BackendError, open_backend
from dfine_tools.deploy.images import SourceError, read_image
from dfine_tools.deploy.predict import Predictor
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.sources import find_source
from dfine_tools.deploy.ties import Limits, Reselection, Tie, compare
from dfine_tools.deploy.validation_report import Check, ValidationReport, report_path

BATCHES = (1, 2, 7)
SIDES = ((640, 640), (384, 640), (320, 320))  # height and width, for files that take images of any side
MOST_IMAGES = 16  # that objects are compared on
LEAST_OBJECTS = 20  # that are compared, however low their scores


# Rounding, seen in the scores of query selection at 640 x 640 on random weights, which amplify it more than trained
# ones: float32 is off float64 by at most 2e-5 (pico) to 6e-4 (l), float16 by some 2,000 times that.
LIMITS = {
    "fp32": Limits(1e-3, 1e-3, 0.0, 1e-4, rounding=2e-3),
    "fp16": Limits(3e-3, 5e-3, 0.02, 2e-3, rounding=5e-2),
    "int8": Limits(0.05, 0.15, 0.25, 0.02, rounding=0.0),  # `share` covers other selections too
}


class ValidationError(DfineError):
    """Validation is not possible: nothing to compare on."""


def validate_export(
    weights: str | Path | DFINE,
    file: str | Path,
    *,
    data: str | Path | None = None,
    images: Any = None,
    backends: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    report: Path | None = None,
    before: Sequence[Check] = (),
) -> ValidationReport:
    """Validate an exported file against its weights, on a CPU. Nothing is deleted, whatever comes out.

    A TensorRT engine is run on a GPU; where there is none, that check is `not run`, and the report does not pass.

    Args:
        weights: what the file was made from.
        file: `.onnx`, `.xml` or `.engine`.
        data: folder with a val split: its first images are compared on, and AP is measured on all of it.
        images: what to compare on, as `find_source` takes it (images); None: of `data`, else two photographs that
            scikit-learn brings, and parts of them.
        backends: what runs the file; None: all that are installed and can.
        image_size: input size of the weights where they do not say; the file's, if None.
        report: JSON to write; None: beside the file, `report_path`.
        before: checks that were made on the way to the file.

    Returns:
        The report. A file that cannot even be opened is a check that failed, not an error.

    Raises:
        ValidationError: a backend that cannot run such files, or no image to compare on.
        WeightsError, DataError, SourceError: weights, folder or images that cannot be used.
    """
    file = Path(file)
    runs = _runs(file, backends)
    index = None
    if data is not None:
        source = LargeFolder()
        index = source.read(*find_split(data, "val"), training=False)
        source.check(index, every=False)
    images = _images(images, index)
    checks = [*before, *([_sound(file)] if file.suffix == ".onnx" else [])]
    reference: Predictor | None = None
    for name in runs:
        if name == "tensorrt" and not torch.cuda.is_available():
            words = (
                "built, not run: torch finds no NVIDIA GPU here. Export again where there is one, to validate it there."
            )
            checks.append(Check(f"{name}: same answers", False, words, run=False))
            continue
        try:
            exported = open_backend(file, backend=name, device=_device(name))
        except ValueError as error:
            checks.append(Check(f"{name}: opens", False, str(error)))
            continue
        if reference is None:
            reference = _reference(weights, image_size or exported.image_hw)
        try:
            checks += _detection_checks(reference, Reselection(weights, exported.image_hw), exported, images)
            checks += _other_sides(weights, file, exported, images)
            if index is not None:
                checks.append(_average_precision(reference.backend, exported, index))
        except BackendError as error:
            checks.append(Check(f"{name}: runs", False, str(error)))
    result = ValidationReport(str(file), _name_of(weights), tuple(checks))
    target = report or report_path(file)
    write_atomically(target, json.dumps(result.to_dict(), indent=1, ensure_ascii=False).encode())
    return result


def _runs(file: Path, backends: Sequence[str] | None) -> Sequence[str]:
    able = KINDS.get(file.suffix, KINDS[".onnx"])
    if backends is None:
        found = [name for name in able if name == "tensorrt" or importlib.util.find_spec(name)]
        if not found:
            raise ValidationError(f'{file}: nothing is installed that runs it: pip install -e ".[deploy]"')
        return found
    for name in backends:
        if name not in able:
            raise ValidationError(f"{file}: the backend {name} does not run such files; {' and '.join(able)} can.")
    return backends


def _device(backend: str) -> str:
    return "cuda" if backend == "tensorrt" else "cpu"


def _reference(weights: str | Path | DFINE, image_size: int | tuple[int, int]) -> Predictor:
    """The model as it was trained, not in deploy mode: fusing is part of what is validated."""
    return Predictor(weights, backend=BACKENDS[0], device="cpu", image_size=image_size, edges=True)


def _name_of(weights: str | Path | DFINE) -> str:
    return "a model in memory" if isinstance(weights, DFINE) else str(weights)


def _images(given: Any, index: CocoIndex | None) -> list[Tensor]:
    if given is None and index is None:
        return _photographs()
    source = find_source([index.file_name(i) for i in range(len(index))] if given is None else given)
    if not hasattr(source, "read"):
        raise ValidationError("validation compares on images, not on videos")
    images: list[Tensor] = []
    for i in range(len(source)):
        try:
            images += [source.read(i).image] if len(images) < MOST_IMAGES else []
        except SourceError:
            if given is not None:
                raise  # of a data folder, the check of AP names what cannot be read
    if not images:
        raise ValidationError(f"none of the {len(source)} images to compare on can be read")
    return images


def _photographs() -> list[Tensor]:
    """Two photographs that a package brings which we need anyway, and six parts of them."""
    from sklearn import datasets

    files = sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))
    whole = [read_image(file) for file in files]
    parts = [image[:, y : y + 240, x : x + 320] for image in whole for y, x in ((0, 0), (187, 320), (90, 150))]
    if not whole:
        raise ValidationError("no image to compare on; give some, or a data folder")
    return whole + parts


# ---- the checks --------------------------------------------------------------------------------------------------


def _sound(file: Path) -> Check:
    import onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:  # of several unrelated classes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check("checker", False, lines[0])
    return Check("checker", True, "a sound ONNX file, types and shapes inferred")


def _detection_checks(
    reference: Predictor, selection: Reselection, exported: Backend, images: list[Tensor]
) -> list[Check]:
    """Same objects, any batch, and the same output for a repeated image."""
    expected = reference(images, score=0.0)
    checks = []
    if exported.batch is not None:
        words = f"the file takes {exported.batch} at a time and no other number"
        checks.append(Check(f"{exported.name}: any batch", False, words))
    checks += [_same_objects(f"{exported.name}: batch {n}", expected, selection, exported, images, n) for n in BATCHES]
    return [*checks, _repeated(selection, exported, images[0])]


def _same_objects(
    name: str, expected: list[Prediction], selection: Reselection, exported: Backend, images: list[Tensor], batch: int
) -> Check:
    """Whether the file finds what the weights find, within the limits of its number format; ties are counted apart."""
    limits = limits_of(exported)
    score = min(0.3, _nth_score(expected, LEAST_OBJECTS))
    shown = _cycle(images, max(batch, len(images)))
    found = Predictor(exported)(shown, score=0.0, batch_size=batch)
    wanted = _cycle(expected, len(found))
    differences, ties = [], []
    for i, image in enumerate(shown):
        words, tied = compare(wanted[i], found[i], score, limits)
        if words and (followed := selection.follow(wanted[i], image, found[i], score, limits)):
            wanted[i], tie = followed
            words, tied = compare(wanted[i], found[i], score, limits)
            tied += [tie] if tie else []
        differences += words
        ties += tied
    compared = sum(len(one.above(score)) for one in wanted)
    numbers = dict(objects=compared, images=len(wanted), score=score, differences=differences[:5])
    numbers |= dict(differing=len(differences), limits=limits._asdict()) | _largest_differences(wanted, found, score)
    numbers |= dict(tied=len(ties), ties=[tie._asdict() for tie in ties[:5]])
    detail = (
        f"{compared} objects above {score:.3g} in {len(wanted)} images; boxes off by at most "
        f"{numbers['box_px']:.2g} px, scores by {numbers['score_difference']:.2g}"
    )
    passed = len(differences) <= limits.share * compared
    if differences:
        allowed = f", {limits.share:.0%} of {compared} may" if limits.share else ""
        detail = f"{len(differences)} objects differ from torch's{allowed}; {differences[0]}"
    return Check(name, passed, detail + _in_words(ties), numbers)


def _in_words(ties: list[Tie]) -> str:
    return f"; {len(ties)} tie{'s' * (len(ties) > 1)}, decided by rounding: {ties[0]}" if ties else ""


def limits_of(exported: Backend) -> Limits:
    """By the number format that the file says it has."""
    return LIMITS.get(exported.about.get("precision", ""), LIMITS["fp32"])


def _other_sides(weights: str | Path | DFINE, file: Path, exported: Backend, images: list[Tensor]) -> list[Check]:
    """The same at other heights and widths, of a file that takes them."""
    least, checks = int(exported.about.get("least_side", 0)), []
    for hw in SIDES if least else ():
        if hw != exported.image_hw and min(hw) >= least:
            expected = _reference(weights, hw)(images, score=0.0)
            opened = open_backend(file, backend=exported.name, device=_device(exported.name), image_size=hw)
            name = f"{exported.name}: {hw[0]} x {hw[1]}"
            checks.append(_same_objects(name, expected, Reselection(weights, hw), opened, images, 2))
    return checks


def _repeated(selection: Reselection, exported: Backend, image: Tensor, times: int = 5) -> Check:
    """Whether an image gives the same detections at every index of a batch."""
    limits = limits_of(exported)
    strict = limits._replace(box=LIMITS["fp32"].box, score=LIMITS["fp32"].score)
    first, *others = Predictor(exported)([image] * times, score=0.0, batch_size=times)
    score = min(0.05, _nth_score([first], LEAST_OBJECTS))
    differences, ties = [], []
    for one in others:
        words, tied = compare(first, one, score, strict)
        if words:  # a tie, if the weights give both outputs by different selections
            followed = [selection.follow(first, image, answer, score, limits) for answer in (first, one)]
            explained = [tie for _, tie in followed if tie] if all(followed) else []
            words, tied = (words, tied) if not explained else ([], tied + explained)
        differences += words
        ties += tied
    if not len(first):  # NaN is above no score
        differences.append("no detection, however low its score")
    numbers = dict(times=times, differing=len(differences), tied=len(ties), ties=[tie._asdict() for tie in ties[:5]])
    detail = f"{times} times the same image: the same {len(first.above(score))} objects above {score:.2g}"
    if differences:
        detail = f"{times} times the same image: {differences[0]}"
    return Check(f"{exported.name}: repeated", not differences, detail + _in_words(ties), numbers)


def _average_precision(reference: Backend, exported: Backend, index: CocoIndex) -> Check:
    """Whether AP falls, over the images that can be read; the others are named."""
    ours, *_ = _metrics(reference, index)
    theirs, count, left_out = _metrics(exported, index)
    limit = limits_of(exported).ap
    passed = ours.ap - theirs.ap <= limit or (math.isnan(ours.ap) and math.isnan(theirs.ap))
    shown = ["-" if math.isnan(each.ap) else f"{each.ap:.4f}" for each in (theirs, ours)]  # no boxes, no AP
    detail = f"AP {shown[0]}, torch {shown[1]}, on {count} images; may lose {limit:g}"
    if left_out:
        detail += f"; left out: {len(left_out)} that cannot be read, as {left_out[0]}"
    numbers = dict(exported=theirs.to_dict(), torch=ours.to_dict(), images=count, left_out=left_out, limit=limit)
    return Check(f"{exported.name}: AP", passed, detail, numbers)


def _metrics(backend: Backend, index: CocoIndex) -> tuple[CocoMetrics, int, list[str]]:
    """The 12 COCO metrics of whatever runs the detector, on how many images, and which cannot be read.

    Classes go by name where the backend knows them.
    """
    ids = dict(zip(index.category_names, index.category_ids, strict=True))
    names = backend.class_names
    if not set(names) & set(ids):
        names = index.category_names  # a file without names: its labels are the folder's, in order
    image_ids: dict[Path, list[int]] = {}  # a file may stand behind several entries
    for i, image_id in enumerate(index.image_ids):
        image_ids.setdefault(index.file_name(i), []).append(int(image_id))
    predictor, found = Predictor(backend), {}
    for one in predictor.stream(list(image_ids), score=0.0, batch_size=8):
        found |= dict.fromkeys(image_ids[one.path], _only(one, one.labels < len(names)))
    evaluator = CocoEvaluator(index, [ids.get(name, -1) for name in names], image_ids=found)
    evaluator.add(found, list(found.values()))
    return evaluator.metrics(), len(found), predictor.skipped


def _only(one: Prediction, which: Tensor) -> Any:
    from dfine_lib.evaluate.postprocess import Detections

    return Detections(one.labels[which], one.boxes_xyxy[which], one.scores[which])


def _cycle(items: list[Any], count: int) -> list[Any]:
    return [items[i % len(items)] for i in range(count)]


def _nth_score(expected: list[Prediction], n: int) -> float:
    scores = torch.cat([one.scores for one in expected]).sort(descending=True).values
    return float(scores[min(n, len(scores)) - 1]) if len(scores) else 0.0


def _largest_differences(expected: list[Prediction], found: list[Prediction], score: float) -> dict[str, float]:
    """Over all objects above `score`: how far the nearest answer of the same label is."""
    boxes, scores = [torch.zeros(())], [torch.zeros(())]
    for one, other in zip(expected, found, strict=True):
        for k in torch.nonzero(one.scores >= score).flatten().tolist():
            same = other.labels == one.labels[k]
            if not same.any():
                return dict(box_px=math.inf, score_difference=math.inf)
            distances = (other.boxes_xyxy[same] - one.boxes_xyxy[k]).abs().amax(1)
            gaps = (other.scores[same] - one.scores[k]).abs()
            nearest = int((distances + gaps).argmin())
            boxes.append(distances[nearest])
            scores.append(gaps[nearest])
    return dict(box_px=float(torch.stack(boxes).max()), score_difference=float(torch.stack(scores).max()))
