"""What every test starts from, and what several rooms share: a browser and an exported file.

Shared fixtures stand here alone. One that is imported into a second conftest is a second fixture to pytest: it would
export twice, or start a second playwright in a thread that has one, which playwright refuses.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell that starts `make test` in the background makes it deaf to Ctrl-C, and every process that a test starts too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
CHROMIUM_FLAGS = [
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    # The rest keeps the browser from calling its maker.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked gpu where there is no GPU, whoever selects them."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as the system has it; nothing is downloaded.

    For one file, since a thread has a running event loop as long as playwright lives: other tests may want their own.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The teaching weights as ONNX for 160 px, classes named as in the weights, their ids 11 to 20.

    Exporting is what takes longest; a worker of pytest-xdist does it once, for all rooms.
    """
    from dfine_lib import DFINE
    from dfine_lib.model.weights import read_weights
    from dfine_tools.deploy.export import export_onnx

    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    weights = read_weights(Path(__file__).parents[1] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors")
    file = tmp_path_factory.mktemp("onnx") / "pico.onnx"
    model = DFINE.from_pretrained(weights.path)
    return export_onnx(model, file, 160, weights.category_names, category_ids=range(11, 21))
