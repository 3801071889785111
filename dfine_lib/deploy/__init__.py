"""From a trained model to a file that other programs run."""

from dfine_lib.deploy.deployed import deployed_form
from dfine_lib.deploy.export import export_onnx

__all__ = ["deployed_form", "export_onnx"]
