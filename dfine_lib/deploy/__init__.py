"""From a trained model to what is in a picture; and to a file that other programs run."""

from dfine_lib.deploy.deployed import deployed_form
from dfine_lib.deploy.export import export_onnx
from dfine_lib.deploy.predict import Predictor
from dfine_lib.deploy.results import Prediction

__all__ = ["Prediction", "Predictor", "deployed_form", "export_onnx"]
