"""What the examples are tried on: a page in a browser, a picture of what the detector knows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """Drawn shapes, 160 x 160, as the teaching weights know them."""
    from data_tools.shapes import make_shapes

    folder = make_shapes(tmp_path_factory.mktemp("shapes") / "shapes", train=1, val=3, size=160, progress=False)
    return sorted((folder / "images" / "val").iterdir())[0]


@pytest.fixture
def page(browser):
    """A page that must end without a word in its console."""
    opened = browser.new_page()
    errors: list[str] = []
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    assert errors == []


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder over HTTP; its address."""

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
