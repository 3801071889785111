"""Find or make the Python environment that `make` works in, and print its interpreter. Standard library only.

    python3 environment.py notebooks,dev        (the extras of pyproject.toml that are wanted)

An active environment that already holds everything pyproject.toml asks for is used as it is. Otherwise `.venv/` in
the project's root is made or completed. A stamp in it says what it was made from, so that the next call only reads
that. What happens is told on stderr; stdout holds the interpreter's path alone.

Environment variables: CONSTRAINTS, a constraints file instead of constraints.txt, or empty for none; TORCH_INDEX,
where to take torch and torchvision from: for a small CPU build, the address behind `--index-url` in the command that
PyTorch's page on installation shows for CPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "made-from.json"
BIN, PYTHON = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--check"]:
        problem = first_problem(arguments[1].split(","))
        if problem:
            print(problem, file=sys.stderr)
        return bool(problem)
    if sys.version_info < (3, 10) and not (VENV / BIN / PYTHON).exists():
        tell(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}; try `make PYTHON3=python3.12 …`")
        return 2
    extras = (arguments[0] if arguments else "notebooks").split(",")
    try:
        print(active_environment(extras) or own_environment(extras))
    except subprocess.CalledProcessError as error:
        tell(f"failed (exit code {error.returncode}): {' '.join(map(str, error.cmd))}")
        tell("The same command goes on from here once the cause is gone.")
        return 1
    except KeyboardInterrupt:
        tell("interrupted; the same command goes on from here")
        return 130
    return 0


def active_environment(extras: list[str]) -> Path | None:
    """The interpreter of the active virtual or conda environment, if it holds all that is wanted."""
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if not active or Path(active).resolve() == VENV.resolve():
        return None
    inside = Path(active)
    python = next((p for p in (inside / BIN / PYTHON, inside / PYTHON) if p.exists()), None)
    if python is None:
        return None
    check = subprocess.run(
        [python, __file__, "--check", ",".join(extras)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if check.returncode == 0:
        return python
    reason = (check.stderr.strip().splitlines() or ["its Python does not start"])[-1]
    tell(f"not using the active environment {active}: {reason}")
    return None


def first_problem(extras: list[str]) -> str | None:
    """What keeps the running interpreter from serving: the first requirement that it does not meet."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        from pip._vendor import tomli as tomllib
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        from pip._vendor.packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in extras for line in optional[extra])]:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            return f"it has no {wanted.name}"
        if not wanted.specifier.contains(found, prereleases=True):
            return f"its {wanted.name} is {found}, wanted is {wanted.specifier}"
    # Not implied by the ranges: torchvision's operators load beside one release of torch only.
    for wanted in map(Requirement, requires("torchvision") or []):
        if wanted.name == "torch" and not wanted.specifier.contains(version("torch"), prereleases=True):
            return f"its torchvision wants torch{wanted.specifier}, its torch is {version('torch')}"
    return None


def own_environment(extras: list[str]) -> Path:
    """`.venv/`, made or completed where its stamp is not that of today's requirements."""
    python = VENV / BIN / PYTHON
    stamp = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    constraints = os.environ.get("CONSTRAINTS", stamp.get("constraints", "constraints.txt"))  # a choice holds
    made_from = fingerprint([ROOT / "pyproject.toml", *([ROOT / constraints] if constraints else [])])
    held = stamp.get("extras", []) if stamp.get("made_from") == made_from else []
    if python.exists() and stamp.get("made_from") == made_from and set(extras) <= set(held):
        return python
    if not python.exists():
        tell(f"making {VENV} (once; about 8 GB with a CUDA build of torch, 2 GB with a CPU build)")
        run([sys.executable, "-m", "venv", VENV], "if venv is missing: `apt install python3-venv`, or another PYTHON3")
    else:
        tell(f"completing {VENV}")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    narrowed = ["--constraint", ROOT / constraints] if constraints else []
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    everything = sorted({*extras, *held})
    # torch goes first, alone: it is the big one, and it may come from an index of its own.
    run([*pip, *narrowed, *index, "torch", "torchvision"], "no such release for this machine? `make CONSTRAINTS= …`")
    run([*pip, *narrowed, "--editable", f"{ROOT}[{','.join(everything)}]"])
    written = STAMP.with_suffix(".tmp")
    content = {"made_from": made_from, "extras": everything, "constraints": constraints}
    written.write_text(json.dumps(content, indent=1) + "\n")
    written.replace(STAMP)
    return python


def fingerprint(files: list[Path]) -> str:
    """One short word for the content of these files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def run(command: list[str | Path], hint: str = "") -> None:
    """Run with its output on our stderr; a failure adds the hint."""
    try:
        subprocess.run(list(map(str, command)), stdout=sys.stderr, check=True)
    except subprocess.CalledProcessError:
        if hint:
            tell(hint)
        raise


def tell(message: str) -> None:
    print(f"environment: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
