"""Annotations of other tools to COCO format and back: one file per format, one neutral form between them.

`convert` (in `conversion.py`) is what the command `dfine data convert` calls.
"""
