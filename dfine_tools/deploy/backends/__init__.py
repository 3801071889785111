"""What runs a detector: torch, ONNX Runtime, OpenVINO, TensorRT, a file each. Same pixels in, same detections out."""

from dfine_tools.deploy.backends.backend import Backend, BackendError, DeviceError, EdgeDistributions
from dfine_tools.deploy.backends.opening import BACKENDS, KINDS, open_backend

__all__ = ["BACKENDS", "KINDS", "Backend", "BackendError", "DeviceError", "EdgeDistributions", "open_backend"]
