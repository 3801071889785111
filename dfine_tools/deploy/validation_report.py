"""The report of an export validation: a result for each check, written next to the exported file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dfine_lib.files import json_safe

_WORDS = {(True, True): "ok     ", (False, True): "FAIL   ", (False, False): "not run"}


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    name: str
    passed: bool
    detail: str
    numbers: dict[str, Any] = field(default_factory=dict)
    run: bool = True  # False: it could not be run here, which is no pass


@dataclass(frozen=True)
class ValidationReport:
    """The results of all checks."""

    file: str
    weights: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def not_run(self) -> bool:
        """Whether nothing failed, but some check could not be run on this machine."""
        return not self.passed and all(check.passed for check in self.checks if check.run)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        checks = [json_safe(asdict(check)) for check in self.checks]
        about = {"passed": self.passed, "not_run": self.not_run, "file": self.file, "weights": self.weights}
        return about | {"checks": checks}

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        return "\n".join(f"{_WORDS[c.passed, c.run]} {c.name:{width}}  {c.detail}" for c in self.checks)


def report_path(file: str | Path) -> Path:
    """Path of the report on a file: next to it, `detector.onnx.gate.json`."""  # old name
    return Path(f"{file}.gate.json")  # old name
