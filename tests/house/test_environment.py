"""One list of dependencies: environment.yml against pyproject.toml; the environment that `make` finds or makes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dfine_lib

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IN_CONDA = (
    "notebooks",
    "deploy",
    "serve",
    "shards",
    "video",
    "tensorrt",
    "docs",
    "dev",
)  # not fiftyone: a database server


def by_name(lines: list[str]) -> dict[str, tuple[str, str]]:
    """Requirement lines as {name: (range, marker)}; a name that stands twice is a mistake."""
    read = [Requirement(line) for line in lines]
    names = [r.name.lower().replace("_", "-") for r in read]
    assert len(set(names)) == len(names), sorted(names)
    return {name: (str(r.specifier), str(r.marker or "")) for name, r in zip(names, read)}


def conda_file() -> tuple[list[str], list[str]]:
    """environment.yml's own lines and those under pip."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(line["pip"] for line in lines if isinstance(line, dict))
    return [line for line in lines if isinstance(line, str)], pip


def test_the_conda_environment_asks_for_what_pyproject_asks_for():
    own, pip = conda_file()
    assert own == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip[-1] == "-e ."
    wanted = PROJECT["dependencies"] + [line for extra in IN_CONDA for line in EXTRAS[extra]]
    assert by_name(pip[:-1]) == by_name(wanted)


def test_it_holds_the_packages_that_the_workbook_promises():
    promised = "jupyterlab torch torchvision matplotlib ipywidgets pycocotools papermill nbval onnx tensorrt seaborn"
    assert set(promised.split()) <= set(by_name(conda_file()[1][:-1]))


@pytest.mark.parametrize("file", [".ci/run", "Makefile", "environment.py", "environment.yml", "constraints.txt"])
def test_what_installs_names_no_host(file):
    """Packages come from wherever the machine has them."""
    assert "://" not in (ROOT / file).read_text()


def test_tensorrt_is_asked_for_on_linux_only():
    (line,) = EXTRAS["tensorrt"]
    assert not Requirement(line).marker.evaluate({"sys_platform": "darwin"})
    assert Requirement(line).marker.evaluate({"sys_platform": "linux"})


def test_every_range_has_a_lower_end():
    for line in PROJECT["dependencies"] + [line for lines in EXTRAS.values() for line in lines]:
        assert any(s.operator == ">=" for s in Requirement(line).specifier), line


def test_the_constraints_lie_within_the_ranges():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = by_name([line for line in lines if not line.startswith("#")])
    ranges = {Requirement(line).name: Requirement(line).specifier for line in PROJECT["dependencies"]}
    assert set(pins) == {"torch", "torchvision"}
    for name, (pin, _) in pins.items():
        assert ranges[name].contains(pin.removeprefix("=="))


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == dfine_lib.__version__


# ---- environment.py -------------------------------------------------------------------------------------------------


@pytest.fixture
def environment():
    """environment.py as a module of its own."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_stamped_environment_is_only_looked_up(environment, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "STAMP", tmp_path / "made-from.json")
    monkeypatch.setattr(environment, "run", lambda *_: pytest.fail("nothing should be installed"))
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "CONSTRAINTS"):
        monkeypatch.delenv(name, raising=False)
    python = tmp_path / environment.BIN / environment.PYTHON
    python.parent.mkdir()
    python.touch()
    made_from = environment.fingerprint([ROOT / "pyproject.toml", ROOT / "constraints.txt"])
    (tmp_path / "made-from.json").write_text(json.dumps({"made_from": made_from, "extras": ["dev", "notebooks"]}))
    assert environment.main(["notebooks"]) == 0
    assert capsys.readouterr().out.strip() == str(python)


@pytest.mark.parametrize(
    ("stamp", "extras"),
    [
        ({}, ["notebooks"]),
        ({"made_from": "other requirements", "extras": ["notebooks"]}, ["notebooks"]),
        ({"made_from": None, "extras": ["dev"]}, ["dev", "notebooks"]),  # None: today's; what was held stays
    ],
)
def test_an_environment_made_from_something_else_is_completed(environment, tmp_path, monkeypatch, stamp, extras):
    calls = []
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "STAMP", tmp_path / "made-from.json")
    monkeypatch.setattr(environment, "run", lambda command, *_: calls.append(list(map(str, command))))
    monkeypatch.delenv("CONSTRAINTS", raising=False)
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    made_from = environment.fingerprint([ROOT / "pyproject.toml", ROOT / "constraints.txt"])
    if stamp:
        stamp = stamp | {"made_from": stamp["made_from"] or made_from}
        (tmp_path / "made-from.json").write_text(json.dumps(stamp))
    environment.own_environment(["notebooks"])
    venv, torch, rest = calls
    assert venv[1:] == ["-m", "venv", str(tmp_path)]
    assert torch[-2:] == ["torch", "torchvision"]
    assert "https://example.org/cpu" in torch
    assert "https://example.org/cpu" not in rest
    assert rest[-1].endswith(f"[{','.join(extras)}]")
    written = json.loads((tmp_path / "made-from.json").read_text())
    assert written == {"made_from": made_from, "extras": extras, "constraints": "constraints.txt"}


def test_other_releases_than_the_tested_pair_stay_chosen_on_later_calls(environment, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "STAMP", tmp_path / "made-from.json")
    monkeypatch.setattr(environment, "run", lambda command, *_: calls.append(list(map(str, command))))
    monkeypatch.setenv("CONSTRAINTS", "")
    environment.own_environment(["notebooks"])
    assert not any("--constraint" in call for call in calls)
    (tmp_path / environment.BIN).mkdir()
    (tmp_path / environment.BIN / environment.PYTHON).touch()
    calls.clear()
    monkeypatch.delenv("CONSTRAINTS")
    environment.own_environment(["notebooks"])
    assert calls == []


def test_a_failing_install_leaves_no_stamp_and_says_how_to_go_on(environment, tmp_path, monkeypatch, capsys):
    def fails(command, *_):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "STAMP", tmp_path / "made-from.json")
    monkeypatch.setattr(environment, "run", fails)
    monkeypatch.setattr(environment, "active_environment", lambda extras: None)
    assert environment.main(["notebooks"]) == 1
    assert "goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "made-from.json").exists()


def test_the_active_environment_is_used_if_it_holds_all_and_told_why_if_not(environment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setattr(environment, "VENV", tmp_path / "elsewhere")
    assert environment.active_environment(["dev"]) == Path(sys.prefix) / environment.BIN / environment.PYTHON
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))  # no Python in it
    assert environment.active_environment(["dev"]) is None
    lacking = tmp_path / environment.BIN / environment.PYTHON
    lacking.parent.mkdir()
    lacking.write_text("#!/bin/sh\necho it has no torch >&2\nexit 1\n")
    lacking.chmod(0o755)
    assert environment.active_environment(["dev"]) is None
    assert "it has no torch" in capsys.readouterr().err
