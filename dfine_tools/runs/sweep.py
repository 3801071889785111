"""Many runs that differ in a few settings: a list of them in a file, each with several seeds, a few at a time."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats
from tqdm.auto import tqdm

from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically
from dfine_lib.recipes import get_recipe
from dfine_tools.runs.launch import last_lines, start_training, stop, training_command
from dfine_tools.runs.settings import with_settings

_KEYS = ("recipe", "data", "epochs", "image_size", "batch_size", "weights", "device", "seeds", "set")


class SweepError(DfineError):
    """A list of runs that cannot be read, or that another sweep has begun in the same folder."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a condition and a seed."""

    condition: str
    seed: int
    out: Path  # its run folder, <sweep>/<condition>/seed<seed>
    command: tuple[str, ...]

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run ended with, its `metrics.json`; None as long as it has not."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.out / "metrics.json").read_text(encoding="utf-8"))
        return None


@dataclass(frozen=True)
class Outcome:
    """How a trial stands."""

    trial: Trial
    state: str  # finished, failed
    words: str = ""  # the last line of a failed run's output


def read_sweep(file: str | Path, out: str | Path, **shared: Any) -> list[Trial]:
    """The trials that a file lists, each checked before the first is started.

    Args:
        file: YAML (or JSON): a list of `{name: no_fgl, set: {loss.fgl: 0}}`. `name` becomes a folder. `set` holds
            fields of the recipe; the other keys are `recipe`, `data`, `epochs`, `image_size`, `batch_size`, `weights`,
            `device` and `seeds` (a list), and go before `shared`.
        out: folder of the sweep.
        shared: the same keys, for all; None is as good as absent, of `set` the fields are put together.

    Returns:
        Trials, condition by condition within each seed: a sweep that is stopped has compared all with the first seeds.

    Raises:
        SweepError: the file is not there or is no such list, a key is unknown or missing, a name repeated or no name
            of a folder, seeds that are no whole numbers, or a setting that the recipe does not have.
    """
    entries = _entries(Path(file))
    by_seed: dict[int, list[Trial]] = {}
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise SweepError(f"{file}: entry {number}: 'name' should be letters, digits, '_', '-' or '.', got {name!r}")
        if name in [other["name"] for other in entries[: number - 1]]:
            raise SweepError(f"{file}: two entries are named {name!r}; rename one")
        where = f"{file}: {name}"
        for given in (entry.keys() - {"name"}, shared.keys()):
            if unknown := sorted(given - set(_KEYS)):
                raise SweepError(f"{where}: unknown key {unknown[0]!r}; known are name, {', '.join(_KEYS)}")
        values = {key: value for key, value in shared.items() if value is not None}
        values |= {key: value for key, value in entry.items() if value is not None}
        values["set"] = {**(shared.get("set") or {}), **_fields(where, entry.get("set"))}
        for key in ("recipe", "data"):
            if not values.get(key):
                raise SweepError(f"{where}: no {key!r}, neither there nor for all")
        try:
            with_settings(get_recipe(values["recipe"]), values["set"])
        except ValueError as error:
            raise SweepError(f"{where}: {error}") from error
        for seed in _seeds(where, values.pop("seeds", [0])):
            folder = Path(out) / name / f"seed{seed}"
            own = {key: value for key, value in values.items() if key not in ("name", "set", "recipe", "data")}
            command = training_command(
                values["recipe"], values["data"], folder, seed=seed, settings=values["set"], **own
            )
            by_seed.setdefault(seed, []).append(Trial(name, seed, folder, tuple(command)))
    return [trial for seed in by_seed for trial in by_seed[seed]]


def run_sweep(trials: Sequence[Trial], processes: int = 1, *, show_progress: bool = True) -> list[Outcome]:
    """Run trials, at most `processes` at a time, each in a process of its own; a finished one is not run again.

    A trial that fails does not stop the others. An interrupt stops all that are running; each keeps its last state,
    and the same call resumes from there.

    Args:
        trials: of `read_sweep`.
        processes: trials at a time. They share the machine's threads and its device.
        show_progress: a bar over the trials.

    Returns:
        An outcome a trial, in their order.

    Raises:
        SweepError: `processes` below 1, or a folder holds a trial with another command.
        KeyboardInterrupt: after the running trials were stopped.
    """
    if processes < 1:
        raise SweepError(f"processes should be at least 1, got {processes}")
    for trial in trials:
        _claim(trial)
    running: list[subprocess.Popen] = []
    with ThreadPoolExecutor(processes) as pool:
        try:
            outcomes = pool.map(lambda trial: _run(trial, running), trials)
            return list(tqdm(outcomes, total=len(trials), desc="sweep", unit="run", disable=not show_progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop(running)
            raise


def _run(trial: Trial, running: list[subprocess.Popen]) -> Outcome:
    if trial.result is not None:
        return Outcome(trial, "finished")
    log = trial.out / "train.log"
    start = log.stat().st_size if log.exists() else 0
    process = start_training(trial.command, trial.out)
    running.append(process)
    code = process.wait()
    running.remove(process)
    if code == 0 and trial.result is not None:
        return Outcome(trial, "finished")
    words = last_lines(log, start, most=1) or ["no output"]
    return Outcome(trial, "failed", f"exit code {code}: {words[0].strip()}")


def student_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean, and the ends of its interval by Student's t; with one value the ends are NaN, with none all three.

    Args:
        values: independent measurements, as AP of several seeds.
        confidence: 0..1.
    """
    if len(values) < 2:
        return (*values, math.nan, math.nan, math.nan)[:3]
    mean = sum(values) / len(values)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))  # t.interval: NaN for equals
    return mean, mean - reach, mean + reach


def condition_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row a condition: AP of the EMA weights after the last epoch over its seeds, and its difference to the first.

    The last epoch and not the best: choosing by validation AP would favour conditions that swing more.

    Returns:
        `condition`, `seeds` (finished), `failed`, `AP` with the ends of its 95 % interval (`low`, `high`), and
        `difference` to the first condition, over the seeds that both have, with `difference low` and
        `difference high`. None where there are too few seeds.
    """
    aps: dict[str, dict[int, float]] = {o.trial.condition: {} for o in outcomes}
    failed = dict.fromkeys(aps, 0)
    for outcome in outcomes:
        failed[outcome.trial.condition] += outcome.state == "failed"
        ap = (((outcome.trial.result or {}).get("last") or {}).get("ema") or {}).get("ap")
        if outcome.state == "finished" and ap is not None:
            aps[outcome.trial.condition][outcome.trial.seed] = float(ap)
    rows: list[dict[str, Any]] = []
    first = next(iter(aps.values()), {})
    for number, (condition, own) in enumerate(aps.items()):
        shared = [seed for seed in own if seed in first] if number else []
        known = (*student_interval(list(own.values())), *student_interval([own[s] - first[s] for s in shared]))
        names = ("AP", "low", "high", "difference", "difference low", "difference high")
        numbers = {name: None if math.isnan(value) else value for name, value in zip(names, known, strict=True)}
        rows.append({"condition": condition, "seeds": len(own), "failed": failed[condition]} | numbers)
    return rows


def _entries(file: Path) -> list[dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"{file}: {error.strerror}; give a YAML file with a list of runs") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise SweepError(f"{file}: should be a list of runs, as '- {{name: no_fgl, set: {{loss.fgl: 0}}}}'")
    return content


def _fields(where: str, fields: Any) -> Mapping[str, Any]:
    if fields is not None and not isinstance(fields, dict):
        raise SweepError(f"{where}: 'set' should be fields of the recipe, as {{loss.fgl: 0}}, got {fields!r}")
    return fields or {}


def _seeds(where: str, seeds: Any) -> list[int]:
    seeds = [seeds] if isinstance(seeds, int) else list(seeds or [])
    if (
        not seeds
        or not all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
        or len({*seeds}) < len(seeds)
    ):
        raise SweepError(f"{where}: 'seeds' should be whole numbers, each once, got {seeds!r}")
    return seeds


def _claim(trial: Trial) -> None:
    """Note the command in the trial's folder, or refuse where another one is noted."""
    note = trial.out / "trial.json"
    words = list(trial.command[1:])  # without the path of the interpreter
    noted = None
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(note.read_text(encoding="utf-8"))
    if noted not in (None, words):
        raise SweepError(f"{trial.out}: holds a trial with other settings; choose another folder, or remove it")
    trial.out.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(words).encode())
