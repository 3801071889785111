"""A run, watched from its folder while it trains."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets
from IPython.display import display

from workbook import viz
from workbook.widgets.explorer import FigureBox

WATCHED = ("run.json", "metrics.jsonl", "samples.json", "metrics.json")


class RunWatch(FigureBox):
    """The figure of a run's folder and a button that draws it again.

    It reads the folder and nothing else: the run may be in another process, of another notebook or not begun.

    Args:
        run_folder: of the run; nothing is written into it.
    """

    def __init__(self, run_folder: str | Path) -> None:
        self.folder = Path(run_folder)
        self.button = ipywidgets.Button(description="Refresh", tooltip="draw the run as it stands now")
        super().__init__([self.button])
        self._task: asyncio.Task | None = None
        self.refresh()
        self.button.on_click(self.refresh)

    def refresh(self, button: object = None) -> None:
        """Draw the folder as it stands."""
        self._seen = self._state()
        self.show(lambda: viz.live_run(self.folder))

    def refresh_if_changed(self) -> bool:
        """Draw again where a file of the folder has changed since; whether one had."""
        changed = self._state() != self._seen
        if changed:
            self.refresh()
        return changed

    def finished(self) -> bool:
        """Is the run's result there?"""
        return (self.folder / "metrics.json").exists()

    def wait(self, every: float, ended: Callable[[], bool]) -> None:
        """Redraw until the run is finished or `ended`; the last state is drawn in any case."""
        while not (self.finished() or ended()):
            self.refresh_if_changed()
            self._sleep(every, ended)
        self.refresh_if_changed()

    def follow(self, every: float) -> None:
        """Redraw between cells, until the run is finished. Needs the running event loop of a kernel.

        Raises:
            RuntimeError: there is none.
        """
        self._task = asyncio.get_running_loop().create_task(self._follow(every))

    def close(self) -> None:
        """Stop following and remove the widget."""
        if getattr(self, "_task", None) is not None:
            self._task.cancel()
        super().close()

    async def _follow(self, every: float) -> None:
        while not self.finished():
            await asyncio.sleep(every)
            self.refresh_if_changed()
        self.refresh_if_changed()

    @staticmethod
    def _sleep(seconds: float, ended: Callable[[], bool], step: float = 0.1) -> None:
        """Sleep, but not on after the end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not ended():
            time.sleep(min(step, seconds))

    def _state(self) -> list[tuple[int, int] | None]:
        """What changes when a file does."""
        states: list[tuple[int, int] | None] = []
        for name in WATCHED:
            try:
                about = (self.folder / name).stat()
            except OSError:
                states.append(None)
            else:
                states.append((about.st_mtime_ns, about.st_size))
        return states


def watch_training(
    run_folder: str | Path, every: float = 2.0, until: subprocess.Popen | Callable[[], bool] | None = None
) -> RunWatch | None:
    """Show a run and draw it again whenever its folder changes, until the run is finished.

    Args:
        run_folder: of the run, which need not have begun.
        every: seconds between looks.
        until: None: the cell ends at once, and the figure changes while the kernel is idle. A process, or a function
            that says when to stop: the cell lasts until that has ended or the run is finished, for notebooks that run
            from top to bottom; the notebook then keeps the last state. Stopping such a cell stops the watching only.

    Returns:
        The widget; None where the cell has waited, for then it is shown already.

    Raises:
        ValueError: `every` not positive.
    """
    if every <= 0:
        raise ValueError(f"every must be positive, got {every}")
    watch = RunWatch(run_folder)
    if until is None:
        if not watch.finished():
            with contextlib.suppress(RuntimeError):  # no kernel: Refresh is what is left
                watch.follow(every)
        return watch
    process = until if isinstance(until, subprocess.Popen) else None
    shown = display(watch, display_id=True)
    try:
        watch.wait(every, until if process is None else lambda: process.poll() is not None)
    finally:
        if process is not None and process.poll():
            watch.message.value = f"<em>the process ended with exit code {process.returncode}; see train.log</em>"
        if shown is not None:
            shown.update(watch)  # what the notebook file keeps
    return None
