"""All checks in their order, and the file that keeps what they have found."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import engines, numerics, runs, speed
from benchmarks.gpu.check import Check, Row, Setting, run_check
from benchmarks.ratio import RESULTS, ROOT, commit
from dfine_lib.files import write_atomically
from dfine_tools.runs.machine import describe_machine

# What is quick and tells most comes first: when the time is up, what is left is compilation.
CHECKS = (
    Check("parity", numerics.parity, 40),
    Check("odd_batches", numerics.odd_batches, 60),
    Check("precisions", numerics.precisions, 40),
    Check("synchronisations", speed.synchronisations, 60),
    Check("steps_n", speed.steps_n, 90),
    Check("steps_l", speed.steps_l, 120),
    Check("make_run", runs.make_run, 240),
    Check("attention", speed.attention, 60),
    Check("layout", speed.layout, 60),
    Check("engine_pico", engines.engine_pico, 100),
    Check("engine_n", engines.engine_n, 120),
    Check("marked_tests", runs.marked_tests, 120),
    Check("two_cards", runs.two_cards, 100),
    Check("engine_l", engines.engine_l, 150),
    Check("compiled_n", speed.compiled_n, 120),
    Check("compiled_l", speed.compiled_l, 150),
)
SECONDS = 570.0  # of one call
SLOWER = 10  # a CPU than a GPU, in the dry mode: no check may end for the sake of other work on the machine
LEAST = 15.0  # no check is started with less time than this
SAME = ("dry", "card", "driver", "torch", "commit", "authors")  # what results of one file have in common
CODE = ("dfine_lib", "data_tools", "dfine_tools", "benchmarks", ":(exclude)benchmarks/results")  # that results are of
REAL = RESULTS / "gpu.json"
FOLDER = ROOT / "build" / "gpu"  # ignored by git


class Refused(ValueError):
    """The pack cannot be run like that."""


def results_file(dry: bool) -> Path:
    """Where results are written: those of the dry mode never into the folder of recorded results."""
    return FOLDER / "dry.json" if dry else REAL


def run_pack(
    setting: Setting,
    file: Path,
    *,
    checks: Sequence[Check] = CHECKS,
    only: Iterable[str] = (),
    seconds: float = SECONDS,
    command: str = "",
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the checks that the file does not hold yet, and write the file after each.

    Args:
        setting: where the checks run.
        file: JSON; of another card, commit, version of torch or mode: it begins anew.
        only: names of checks: these are run, whether the file holds them or not.
        seconds: of this call; a check that would not end in time is left for the next call.
        command: kept in the file with each check.
        show: is given a line for each check.

    Returns:
        The content of the file.

    Raises:
        Refused: an unknown check, the dry mode on the file of recorded results, or no GPU without the dry mode.
    """
    only, names = set(only), [check.name for check in checks]
    if unknown := only - set(names):
        raise Refused(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if setting.dry and file.resolve().is_relative_to(RESULTS.resolve()):
        raise Refused(f"{file}: results of the dry mode are not recorded")
    end = time.monotonic() + seconds
    about = _about(setting)
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = bool(earlier) and all(earlier.get(key) == about[key] for key in SAME)
    if not same:
        shutil.rmtree(setting.folder, ignore_errors=True)  # files that an earlier call was stopped at
    done = earlier["checks"] if same else {}
    results = about | {"order": names, "checks": done}
    for check in checks:
        if check.name not in only if only else check.name in done:
            continue
        limit, left = check.seconds * (SLOWER if setting.dry else 1), end - time.monotonic()
        if left < min(LEAST, limit):
            show(f"{check.name}: out of time; the same command continues here")
            break
        start = time.monotonic()
        rows = run_check(check, setting, min(limit, left))
        took = time.monotonic() - start
        if left < limit and rows[-1].ended == "timeout":
            show(f"{check.name}: not finished in the time of this call; the same command starts it again")
            break
        date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        about_check = {"date": date, "command": command, "seconds": round(took, 1)}
        done[check.name] = about_check | {"rows": [row.to_dict() for row in rows]}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(results, indent=1) + "\n").encode())
        show(f"{check.name}: {in_words(rows)} ({took:.0f} s)")
    if not set(names) - done.keys():
        shutil.rmtree(setting.folder, ignore_errors=True)
    return results


def in_words(rows: list[Row]) -> str:
    """How many rows have which status, and the text of those that have no value."""
    statuses = [row.status for row in rows]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return "; ".join([counts, *(row.text for row in rows if row.ended)])


def _about(setting: Setting) -> dict[str, Any]:
    """Card, driver, versions, commit. The card is asked for in another process: this one must not use CUDA."""
    described = run_check(Check("card", _card), setting, 60)[0]
    if described.ended:
        raise Refused(f"no CUDA device can be used ({described.text}); --dry runs every check on the CPU")
    authors = setting.authors is not None
    return {"dry": setting.dry, **described.details, "authors": authors}


def _card(setting: Setting) -> Iterable[Row]:
    device = setting.device
    machine = describe_machine(device)
    card = {"card": machine["device"], "memory_gb": 0.0, "compute_capability": "", "cards": 0}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        card |= {"memory_gb": round(properties.total_memory / 2**30, 1), "cards": torch.cuda.device_count()}
        card["compute_capability"] = f"{properties.major}.{properties.minor}"
    versions = {"driver": _driver(), "torch": torch.__version__, "cuda": torch.version.cuda}
    more = {"versions": machine["versions"], "machine": machine["machine"], "threads": machine["threads"]}
    yield Row(what="card", details=card | versions | {"commit": commit(*CODE), **more})


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ""
    return lines[0] if lines else ""
