"""What may be imported when: nothing large for the bare library and the help, nothing of other rooms for inference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Drawing, exports, other formats, training: each is imported where it is used.
OPTIONAL = (
    *("matplotlib", "seaborn", "pandas", "scipy", "sklearn", "tensorboard", "IPython", "ipywidgets", "papermill"),
    *("onnx", "onnxruntime", "onnxscript", "onnxslim", "openvino", "tensorrt", "tensorrt_rtx"),
    *("transformers", "huggingface_hub", "pycocotools", "faster_coco_eval", "fiftyone", "webdataset"),
    *("cv2", "av", "fastapi", "uvicorn", "yaml", "tabulate", "jinja2"),
)
LARGE = ("torch", "torchvision", "numpy", "PIL", "safetensors", "tqdm", *OPTIONAL)


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import dfine_lib", LARGE),
        ("from dfine_tools import cli; assert cli.main(['--help']) == 0", LARGE),
        ("from dfine_tools import cli; assert cli.main(['train', '--help']) == 0", LARGE),
        ("from dfine_lib import DFINE, Predictor", OPTIONAL),
        ("import dfine_tools.analysis.saved", OPTIONAL),
        ("import dfine_tools.runs.results", OPTIONAL),
        ("import data_tools.convert.conversion", ("torch", "torchvision")),
        ("import data_tools.subset", ("torch", "torchvision")),
    ],
    ids=[
        "import dfine_lib",
        "dfine --help",
        "dfine train --help",
        "DFINE and Predictor",
        "dfine eval",
        "tables of results",
        "dfine data convert",
        "dfine data subset",
    ],
)
def test_only_what_is_needed_is_imported(code, unwanted):
    print_found = f"import sys; print('found', *sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{print_found}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["found"]
