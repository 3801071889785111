"""What an evaluator holds, as error analysis looks at it: boxes image by image, and precision by recall."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dfine_lib.evaluate.coco_ap import CocoEvaluator

MAX_DETECTIONS = 100  # of one image and class; COCO's evaluation looks at no more


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """Ground truth and detections of one image. Boxes in pixels, left, top, right, bottom."""

    image_id: int
    true_labels: np.ndarray  # int64 [G], 0..C-1
    true_boxes_xyxy: np.ndarray  # float64 [G, 4]
    true_iscrowd: np.ndarray  # bool [G]; any number of detections of its class match a crowd region
    true_ignored: np.ndarray  # bool [G]; the crowd regions, and objects marked to be ignored
    labels: np.ndarray  # int64 [K], 0..C-1
    boxes_xyxy: np.ndarray  # float64 [K, 4]
    scores: np.ndarray  # float64 [K], falling

    def above(self, score: float) -> ImageBoxes:
        """With the detections of at least this score only."""
        kept = self.scores >= score
        return replace(self, labels=self.labels[kept], boxes_xyxy=self.boxes_xyxy[kept], scores=self.scores[kept])


def boxes_by_image(evaluator: CocoEvaluator) -> list[ImageBoxes]:
    """The scored images by rising id, each with its objects and those of its detections that COCO looks at.

    Labels are indices into `evaluator.class_names`; detections of a category that the file lacks are left out.
    """
    rows, num_classes = evaluator.detections(), len(evaluator.class_names)
    order = np.lexsort((-rows[:, 5], rows[:, 6], rows[:, 0]))  # by image, class, falling score
    group = (rows[:, 0] * num_classes + rows[:, 6])[order]
    rank = np.arange(len(rows)) - np.searchsorted(group, group)
    rows = rows[np.sort(order[rank < MAX_DETECTIONS])]
    rows = rows[np.lexsort((-rows[:, 5], rows[:, 0]))]
    start, end = (np.searchsorted(rows[:, 0], evaluator.scored, side=side) for side in ("left", "right"))
    images = []
    for i, first, last in zip(evaluator.scored, start, end, strict=True):
        annotations, found = evaluator.ground_truth.imgToAnns[i], rows[first:last]
        column = lambda key, kind, of=annotations: np.array([a.get(key, 0) for a in of], dtype=kind)  # noqa: E731
        images.append(ImageBoxes(
            image_id=evaluator.image_ids[i],
            true_labels=column("category_id", np.int64),
            true_boxes_xyxy=_to_xyxy(column("bbox", np.float64).reshape(-1, 4)),
            true_iscrowd=column("iscrowd", bool) & ~column("marked", bool),
            true_ignored=column("iscrowd", bool),
            labels=found[:, 6].astype(np.int64), boxes_xyxy=_to_xyxy(found[:, 1:5]), scores=found[:, 5],
        ))  # fmt: skip
    return images


def precision_by_recall(evaluator: CocoEvaluator) -> np.ndarray:
    """Precision `[10, 101, C]` at IoU 0.50, 0.55, …, 0.95, at recall 0, 0.01, …, 1, of each class.

    Interpolated as COCO does: the best precision at that recall or a higher one. NaN for a class without objects.
    """
    precision = evaluator.tables()[0][:, :, :, 0, 2]
    return np.where(precision < 0, np.nan, precision)


def _to_xyxy(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
