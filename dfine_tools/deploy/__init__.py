"""From a trained model to what is in an image; and to a file that other programs run."""

from dfine_tools.deploy.deployed import deploy_mode
from dfine_tools.deploy.export import export_onnx
from dfine_tools.deploy.predict import Predictor
from dfine_tools.deploy.results import Prediction

__all__ = ["Prediction", "Predictor", "deploy_mode", "export_onnx"]
