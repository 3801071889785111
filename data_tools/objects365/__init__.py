"""Objects365 v2 as D-FINE is pretrained on it: most of validation joins training, large images are shrunk."""

from data_tools.objects365.remap import remap
from data_tools.objects365.resize import resize

__all__ = ["remap", "resize"]
