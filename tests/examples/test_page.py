"""examples/page: a picture goes up, boxes and distributions come back; what cannot be taken is one line."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfine_tools.deploy.predict import Predictor
from tests.browser.conftest import wait_for
from tests.examples.conftest import EXAMPLES, WEIGHTS

pytest.importorskip("fastapi", reason='fastapi is not installed: pip install -e ".[serve]"')
uvicorn = pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install -e ".[serve]"')


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The example's server, with uploads of at most 1 MB."""
    spec = importlib.util.spec_from_file_location("page_app", EXAMPLES / "page" / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    config = uvicorn.Config(app.make_app(app.Detector(WEIGHTS), max_megabytes=1), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the server to answer", lambda: server.started, 30)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


def test_without_its_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    spec = importlib.util.spec_from_file_location("page_app_alone", EXAMPLES / "page" / "app.py")
    with pytest.raises(SystemExit, match=r"pip install -e \"\.\[serve\]\""):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def post(port: int, content: bytes) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/detect", content)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_boxes_are_those_of_the_predictor_and_the_last_layers_mean_is_the_box(port, picture):
    status, answer = post(port, picture.read_bytes())
    (expected,) = Predictor(WEIGHTS, device="cpu")(picture, score=0.3)
    assert status == 200 and (answer["width"], answer["height"]) == expected.size_wh
    found = [one for one in answer["objects"] if one["score"] >= 0.3]
    assert [one["name"] for one in found] == expected.names and len(found) > 0
    np.testing.assert_allclose([one["box_xyxy"] for one in found], expected.boxes_xyxy, atol=0.1)
    for one in found:
        probabilities, places = np.array(one["probabilities"]), np.array(one["bins_px"])  # [L, 4, N + 1], [4, N + 1]
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=0.01)
        np.testing.assert_allclose((probabilities[-1] * places).sum(-1), one["box_xyxy"], atol=0.5)
        np.testing.assert_allclose(one["layers_xyxy"][-1], one["box_xyxy"], atol=0.1)


def test_what_is_no_picture_too_large_or_nothing_is_one_line(port):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for content, status, words in (
        (b"no picture", 415, "not a picture"),
        (b"", 400, "Nothing was sent"),
        (b"x" * (2**20 + 1), 413, "larger than 1 MB"),
        (bomb.getvalue(), 413, "too many"),
        (Path(WEIGHTS).read_bytes()[:1000], 415, "not a picture"),
    ):
        got, answer = post(port, content)
        assert got == status and set(answer) == {"error"}
        assert words in answer["error"] and "\n" not in answer["error"]


def test_a_person_uploads_moves_the_slider_and_clicks_a_box(port, page, picture, tmp_path):
    page.goto(f"http://127.0.0.1:{port}/")
    wait_for("what it knows", lambda: "knows circle, square" in page.locator("#about").inner_text(), 20)
    page.set_input_files("#file", str(picture))
    boxes = page.locator("#boxes button")
    boxes.first.wait_for(timeout=30_000)
    (expected,) = Predictor(WEIGHTS, device="cpu")(picture, score=0.4)
    assert boxes.count() == len(expected)
    words = [f"{name} {score:.2f}" for name, score in zip(expected.names, expected.scores.tolist(), strict=True)]
    assert [box.inner_text() for box in boxes.all()] == words, "each box bears its name, without a pointer over it"
    shown, whole = boxes.first.bounding_box(), page.locator("#photo").bounding_box()
    scale = whole["width"] / expected.size_wh[0]
    assert shown["x"] - whole["x"] == pytest.approx(float(expected.boxes_xyxy[0, 0]) * scale, abs=2)

    page.locator("#score").fill("0.05")
    wait_for("more boxes", lambda: boxes.count() > len(expected), 10)
    page.locator("#score").fill("0.4")
    boxes.first.focus()
    page.keyboard.press("Space")
    charts = page.locator("#edges figure")
    assert charts.count() == 4 and page.locator("#title").inner_text().startswith(expected.names[0])
    page.locator("#score").fill("0.39")
    assert page.locator("#title").is_visible(), "the chosen object stays chosen while the slider moves"
    layers = charts.first.locator("polyline").count()
    assert layers == len(post(port, picture.read_bytes())[1]["objects"][0]["probabilities"])
    assert "px after the last" in charts.first.inner_text()

    assert page.locator("#error").inner_text() == ""


def test_what_is_refused_is_said_with_its_name_and_the_old_picture_goes(port, page, picture, tmp_path):
    """A phone's width; nothing of it goes to the server, so that the console stays empty (`page` looks at it)."""
    (tmp_path / "notes.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_text("")
    (tmp_path / "large.jpg").write_bytes(b"x" * (2**20 + 1))
    Image.new("1", (9000, 6000)).save(tmp_path / "many.png")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"http://127.0.0.1:{port}/")
    wait_for("the limits", lambda: "1 MB" in page.locator("#about").inner_text(), 20)
    for name, words in (
        ("notes.jpg", "not a picture"),
        ("empty.jpg", "empty"),
        ("large.jpg", "larger than 1 MB"),
        ("many.png", "9000 x 6000 pixels are too many"),
    ):
        page.set_input_files("#file", str(picture))
        page.locator("#boxes button").first.wait_for(timeout=30_000)
        page.set_input_files("#file", str(tmp_path / name))
        wait_for("the error", lambda words=words: words in page.locator("#error").inner_text(), 20)
        assert page.locator("#error").inner_text().startswith(f"{name}: ")
        assert page.locator("#boxes button").count() == 0 and not page.locator("#photo").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_last_picture_chosen_counts(port, page, picture, tmp_path):
    with Image.open(picture) as image:
        image.convert("RGB").resize((6000, 6000)).save(tmp_path / "slow.jpg", quality=20)
    Image.new("RGB", (160, 160), "gray").save(tmp_path / "blank.png")
    page.goto(f"http://127.0.0.1:{port}/")
    with page.expect_request("**/detect"):  # the large one is on its way
        page.set_input_files("#file", str(tmp_path / "slow.jpg"))
    page.set_input_files("#file", str(tmp_path / "blank.png"))
    said = page.locator("#said")
    wait_for("the answer", lambda: "No object" in said.inner_text(), 20)
    post(port, picture.read_bytes())  # the server has done with the large one, or soon has
    page.wait_for_timeout(1000)
    assert "No object" in said.inner_text() and page.locator("#photo").get_attribute("alt") == "blank.png"
    assert page.locator("#error").inner_text() == ""


def test_a_server_that_is_gone_is_said(port, browser, picture):
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.route("**/detect", lambda route: route.abort())
    page.set_input_files("#file", str(picture))
    wait_for("the error", lambda: "does not answer" in page.locator("#error").inner_text(), 20)
    page.unroute("**/detect")
    page.set_input_files("#file", [])
    page.route("**/detect", lambda route: route.fulfill(status=500, body="Internal Server Error"))
    page.set_input_files("#file", str(picture))
    wait_for("the error", lambda: "failed (status 500)" in page.locator("#error").inner_text(), 20)
    page.close()
