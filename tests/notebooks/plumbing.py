"""Functions and classes of the library that no lesson teaches, by what they are for."""

from __future__ import annotations

PLUMBING: dict[str, str] = {}
