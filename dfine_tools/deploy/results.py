"""What was found in one image, and the forms it can take."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically
from dfine_tools.deploy.backends import EdgeDistributions
from dfine_tools.deploy.images import SourceError, read_image

if TYPE_CHECKING:
    from dfine_tools.figures.style import Figure


@dataclass(frozen=True, eq=False)
class Prediction:
    """K objects found in one image, scores falling."""

    name: str  # of the image
    size_wh: tuple[int, int]  # its width and height in pixels, upright
    labels: Tensor  # int64 [K]
    boxes_xyxy: Tensor  # float32 [K, 4], pixels
    scores: Tensor  # float32 [K], 0..1
    class_names: tuple[str, ...] = ()  # by label
    category_ids: tuple[int, ...] = ()  # the training data's id of each label
    path: Path | None = None  # the image's file
    frame: int | None = None  # number in its video, from 0
    time_s: float | None = None  # since the video began
    edges: EdgeDistributions | None = None  # where asked for
    image: Tensor | None = None  # uint8 [3, H, W]; None where the file can be read again, or it was not kept

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())
        return f"{self.name}: {counts or 'nothing found'}"

    @property
    def names(self) -> list[str]:
        """Class name of each object; the label where the class has none."""
        return [
            (self.class_names[label] if 0 <= label < len(self.class_names) else "") or str(label)
            for label in self.labels.tolist()
        ]

    def above(self, score: float) -> Prediction:
        """Those with a score of at least `score`."""
        keep = self.scores >= score
        edges = self.edges and EdgeDistributions(self.edges.probabilities[keep], self.edges.positions_px[keep])
        return replace(
            self, labels=self.labels[keep], boxes_xyxy=self.boxes_xyxy[keep], scores=self.scores[keep], edges=edges
        )

    # ---- as numbers ----

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: the image's name and size, and its objects with boxes in pixels.

        `label` is the row of the class head, from 0; `category_id` the training data's id of the class, None where the
        weights do not hold it.
        """
        about: dict[str, Any] = {"image": self.name, "width": self.size_wh[0], "height": self.size_wh[1]}
        if self.path is not None:
            about["path"] = str(self.path)
        if self.frame is not None:
            about |= {"frame": self.frame, "time_s": round(self.time_s or 0.0, 4)}
        columns = (self.labels.tolist(), self.names, self.scores.tolist(), self.boxes_xyxy.tolist())
        return about | {
            "detections": [
                {
                    "label": label, "category_id": self._category_id(label), "name": name, "score": round(score, 5),
                    "box_xyxy": [round(v, 2) for v in box],
                }
                for label, name, score, box in zip(*columns, strict=True)
            ]
        }  # fmt: skip

    def _category_id(self, label: int) -> int | None:
        return int(self.category_ids[label]) if 0 <= label < len(self.category_ids) else None

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO result records: boxes as left, top, width, height in pixels.

        Args:
            image_id: the image's id in the COCO file.
            category_ids: id of each label; None: those of the training data, else the labels.

        Raises:
            ValueError: a label without an id.
        """
        ids = self.category_ids if category_ids is None else tuple(category_ids)
        if ids and len(self) and int(self.labels.max()) >= len(ids):
            raise DfineError(f"{self.name}: label {int(self.labels.max())} for {len(ids)} category ids")
        records = []
        for label, (x1, y1, x2, y2), score in zip(
            self.labels.tolist(), self.boxes_xyxy.double().tolist(), self.scores.tolist(), strict=True
        ):
            category = int(ids[label]) if ids else label
            box = [x1, y1, x2 - x1, y2 - y1]
            records.append({"image_id": int(image_id), "category_id": category, "bbox": box, "score": score})
        return records

    def to_supervision(self) -> Any:
        """As `supervision.Detections`.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("this form needs the package supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy.numpy().reshape(-1, 4),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    # ---- as images ----

    def pixels(self) -> Tensor:
        """The image, uint8 `[3, H, W]`.

        Raises:
            SourceError: it was not kept, and has no file of its own; or that file is gone.
        """
        if self.image is not None:
            return self.image
        if self.path is None:
            raise SourceError(f"{self.name}: the image was not kept; ask for keep_images=True.")
        return read_image(self.path)

    def drawn(self) -> np.ndarray:
        """The image with its objects in it, uint8 `[H, W, 3]`."""
        from dfine_tools.figures.annotated import annotated

        return annotated(self.pixels(), self.boxes_xyxy, self.labels, self._words())

    def show(self) -> None:
        """Show the same in the notebook, or on the desktop; where there is neither, a warning says so in a line."""
        self.figure().show()

    def figure(self) -> Figure:
        """The same as a figure; as the value of a notebook's cell it shows."""
        from dfine_tools.figures.annotated import annotated_image

        return annotated_image(self.pixels(), self.boxes_xyxy, self.labels, self._words(), self.name)

    def save(self, path: Path | str) -> Path:
        """Write the image with its objects in it; the suffix (`.jpg`, `.png`, …) says how. Folders are made.

        Raises:
            SourceError: a suffix that no image has, or `path` is the image itself.
        """
        from PIL import Image

        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind not in Image.SAVE:
            raise SourceError(f"{path}: no kind of image ends so; take .jpg or .png.")
        if self.path is not None and path.exists() and path.samefile(self.path):
            raise SourceError(f"{path}: is the image itself, and stays as it is; give another name or folder.")
        buffer = io.BytesIO()
        Image.fromarray(self.drawn()).save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        return path

    def _words(self) -> list[str]:
        return [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
