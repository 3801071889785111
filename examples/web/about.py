"""What a browser cannot read out of an ONNX file: its metadata, as `detector.json` beside it.

python about.py detector.onnx
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime


def main(file: Path) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    about = {key: json.loads(metadata[key]) for key in ("image_size", "names")}
    file.with_suffix(".json").write_text(json.dumps(about) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
