"""What a run's files say about the code that wrote them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dfine_tools.runs.machine import commit_of


def test_the_commit_noted_is_that_of_the_library_and_never_of_a_project_around_it(tmp_path):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", tmp_path, *who, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    installed = tmp_path / ".venv" / "dfine_lib" / "train" / "run_folder.py"
    tracked = tmp_path / "dfine_lib" / "train" / "run_folder.py"
    for file in (installed, tracked):
        file.parent.mkdir(parents=True)
        file.write_text("# a file of the library\n")
    assert commit_of(tracked) is None  # no repository at all, or one that does not track it
    git("init", "-q")
    git("add", "dfine_lib")
    git("commit", "-q", "-m", "a project")
    assert commit_of(installed) is None
    assert commit_of(tracked) == git("rev-parse", "HEAD")
    tracked.write_text("# changed\n")
    assert commit_of(tracked) == git("rev-parse", "HEAD") + "+changes"
    assert commit_of(Path("/nowhere/at/all.py")) is None
