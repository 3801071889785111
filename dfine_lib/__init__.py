"""D-FINE as a thin library: `data`, `model`, `criterion`, `evaluate`, `train`; each imports the ones before it only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["DFINE", "Predictor", "__version__"]

if TYPE_CHECKING:
    from dfine_lib.model.dfine import DFINE
    from dfine_tools.deploy.predict import Predictor


def __getattr__(name: str) -> object:
    """Load what is large on first use, so that `import dfine_lib` and `dfine --help` stay quick."""
    if name == "DFINE":
        from dfine_lib.model.dfine import DFINE

        return DFINE
    if name == "Predictor":
        return importlib.import_module("dfine_tools.deploy.predict").Predictor  # a package above: only when asked for
    raise AttributeError(f"module 'dfine_lib' has no attribute {name!r}")
