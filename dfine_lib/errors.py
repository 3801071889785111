"""The base class of what a caller can put right. Every other exception is a fault of the code, or of the machine."""

from __future__ import annotations


class DfineError(ValueError):
    """A mistake in what was given to the library: a file, a setting, a folder; the message names it and the way out."""


class DataError(DfineError):
    """A data set that cannot be used as it is; the message names the place and the way out."""
