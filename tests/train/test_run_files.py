"""The state of a run on disk: written whole, without a second copy in memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
import torch

from dfine_lib.train.checkpoint import load_state, save_state


def test_a_state_is_written_without_a_second_copy_in_memory(tmp_path):
    state = {f"tensor {i}": torch.full((1 << 20,), float(i)) for i in range(16)}  # 64 MiB
    save_state(tmp_path / "warm.pt", {})
    tracemalloc.start()
    save_state(tmp_path / "last.pt", state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert all(torch.equal(a, b) for a, b in zip(load_state(tmp_path / "last.pt").values(), state.values()))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of a file")
def test_a_disk_that_fills_up_while_a_state_is_written_keeps_the_old_one_and_leaves_no_litter(tmp_path):
    program = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from dfine_lib.train.checkpoint import load_state, save_state\n"
        "path = Path(sys.argv[1])\n"
        "save_state(path, {'step': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
        "try:\n"
        "    save_state(path, {'step': 2, 'model': torch.zeros(4_000_000)})\n"
        "except OSError as error:\n"
        "    assert 'last.pt could not be written (File too large)' in str(error), error\n"
        "    assert load_state(path) == {'step': 1}\n"
        "    print('kept')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "last.pt"], capture_output=True, text=True)
    assert done.stdout == "kept\n", done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
