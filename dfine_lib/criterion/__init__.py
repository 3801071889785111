"""Matching and losses."""

from dfine_lib.criterion.criterion import Criterion, build_criterion

__all__ = ["Criterion", "build_criterion"]
