"""D-FINE as a thin library: `data`, `model`, `criterion`, `train`, `evaluate`, `deploy`; imports run down that list."""

from __future__ import annotations

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
        from dfine_tools.deploy.predict import Predictor

        return Predictor
    raise AttributeError(f"module 'dfine_lib' has no attribute {name!r}")
