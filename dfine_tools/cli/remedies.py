"""Ways out of the library's errors, in the words of the command line; an error names one by `remedy`."""

from __future__ import annotations

from dfine_lib.errors import DfineError

REMEDIES: dict[str, str] = {}


def with_remedy(error: DfineError) -> str:
    """The error's message, followed by the way out that it names."""
    if error.remedy is None:
        return str(error)
    if error.remedy in REMEDIES:
        return f"{error}. {REMEDIES[error.remedy].format(**error.values)}"
    from data_tools.layouts import with_hint  # looks into the folder, and imports numpy

    return with_hint(error)
