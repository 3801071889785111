"""Fixtures shared with the tests of `dfine_lib.data`."""

from tests.data.conftest import content, many, recipe, varied, write

__all__ = ["content", "many", "recipe", "varied", "write"]
