"""The README's numbers are those of the files in results/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_readme_and_result_files_agree():
    done = subprocess.run([sys.executable, "results/table.py", "check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*.json")), ids=lambda f: f.stem)
def test_a_result_says_how_to_repeat_it(file):
    result = json.loads(file.read_text(encoding="utf-8"))
    for key in ("ap", "steps", "seed", "command", "commit", "device", "data", "recipe", "versions"):
        assert result[key] is not None, f"{file.name} lacks {key}"
    assert not result["commit"].endswith("+changes"), f"{file.name} was made from a tree that no commit holds"


def test_a_command_is_shown_without_the_folders_of_the_machine_it_ran_on():
    sys.path.insert(0, str(ROOT / "results"))
    from table import portable

    shown = portable("dfine train --data ../a/b/data/set --recipe n --out /home/me/w/runs/mine --set train.lr=1e-3")
    assert shown == "dfine train --data …/data/set --recipe n --out …/runs/mine --set train.lr=1e-3"
    assert portable("dfine train --data data/digits") == "dfine train --data data/digits"
