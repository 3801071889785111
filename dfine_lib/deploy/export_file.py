"""From a weights file to an exported file that is proven: what `dfine export` does."""

from __future__ import annotations

from pathlib import Path

from dfine_lib.config import DataConfig
from dfine_lib.deploy.backends import BackendError
from dfine_lib.deploy.export import export_onnx, export_openvino
from dfine_lib.deploy.gate import GateReport, gate
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import WeightsError, load_weights, read_weights

FORMS = {"onnx": ".onnx", "openvino": ".xml"}


def export_file(
    weights: str | Path,
    out: str | Path,
    *,
    to: str,
    image_size: int | tuple[int, int] | None = None,
    data: str | Path | None = None,
) -> GateReport:
    """Export, then hold the file against the weights. The file stays, whatever the gate says; its report lies beside.

    Args:
        weights: `.safetensors`, `.pth`, a folder of Hugging Face's, or a published name.
        out: file to write; OpenVINO writes a `.bin` beside its `.xml`.
        to: `onnx` or `openvino`.
        image_size: side, or (height, width); None: as the weights say, else 640.
        data: folder with a val split, to compare the average precision too.

    Raises:
        ValueError: an unknown form, an ending that does not belong to it, or a size that the model cannot take.
        WeightsError: weights that cannot be used.
        BackendError: what exports is not installed.
    """
    out = Path(out)
    if to not in FORMS:
        raise ValueError(f"form {to!r} is none of {', '.join(FORMS)}")
    if out.suffix != FORMS[to]:
        raise ValueError(f"{out}: a file of the form {to} ends in {FORMS[to]}")
    stored = read_weights(weights)
    if stored.model is None:
        raise WeightsError(f"{weights}: the file does not say which model it is of. Convert it: dfine weights --to.")
    own = stored.data or DataConfig()
    image_hw = DataConfig(image_size=image_size).image_hw if image_size is not None else own.image_hw
    model = DFINE(stored.model)
    load_weights(model, stored)
    write = export_onnx if to == "onnx" else export_openvino
    try:
        write(model.eval(), out, image_hw, stored.category_names, category_ids=stored.category_ids)
    except ImportError as error:
        raise BackendError(str(error)) from error
    return gate(weights, out, data=data, image_size=image_hw)
