"""JupyterLab on a copy of the notebooks; the browser that looks at it is in tests/conftest.py."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    port: int
    token: str

    def page(self, notebook: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?reset&token={self.token}"

    def kernels(self) -> list[dict[str, Any]]:
        """What the server says about its kernels; nothing while it cannot say."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/kernels", headers={"Authorization": f"token {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:  # not up yet, or status 500 while a kernel starts
            return []


def wait_for(what: str, happened, seconds: float = 90.0) -> Any:
    """What `happened` gives, once it gives something true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := happened():
            return result
        time.sleep(0.1)
    raise AssertionError(f"after {seconds:.0f} s still waiting for {what}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A copy, for JupyterLab saves what it shows."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "notebooks"), os.environ.get("PYTHONPATH")])),
    }
    words = (
        f"-m jupyter lab --no-browser --allow-root --ServerApp.ip=127.0.0.1 --ServerApp.port={port} "
        f"--ServerApp.port_retries=0 --IdentityProvider.token={token}"
    ).split()
    with open(home / "lab.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, *words, f"--ServerApp.root_dir={home / 'notebooks'}"],
            stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=home,
        )  # fmt: skip
    try:
        wait_for("JupyterLab to answer", lambda: _answers(port) or server.poll() is not None)
        assert server.poll() is None, (home / "lab.log").read_text()[-2000:]
        yield Lab(port, token)
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
