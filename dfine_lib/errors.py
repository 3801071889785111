"""The errors of the project: what a person can put right."""

from __future__ import annotations


class DfineError(ValueError):
    """Something the caller can put right; the message says what is wrong and where.

    `remedy` names a way out that the caller's interface words, since the library knows no options: the command line
    adds `dfine_tools.cli.remedies.REMEDIES[remedy]`, formatted with `values`.
    """

    def __init__(self, message: object = "", remedy: str | None = None, **values: object) -> None:
        super().__init__(message)
        self.remedy, self.values = remedy, values


class DataError(DfineError):
    """Annotations or images that are not usable; the message names the file and the image or annotation id."""
