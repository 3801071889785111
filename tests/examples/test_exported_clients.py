"""examples/cpp and examples/web: other programs run our ONNX file, and find what our Predictor finds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from dfine_tools.deploy.predict import Predictor
from tests.browser.conftest import wait_for
from tests.examples.conftest import EXAMPLES, served

SCORE = 0.3


def includes() -> Path | None:
    """Where ONNX Runtime's C++ headers lie; the Python package has none."""
    places = filter(
        None, [os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    )
    return next((Path(place) for place in places if (Path(place) / "onnxruntime_cxx_api.h").is_file()), None)


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Path:
    """The C++ example, compiled and linked to the library that the Python package brings."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    if includes() is None:
        pytest.skip("no onnxruntime_cxx_api.h (Debian 13: apt install libonnxruntime-dev; or ONNXRUNTIME_INCLUDE)")
    folder = tmp_path_factory.mktemp("cpp")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("this onnxruntime brings no libonnxruntime.so")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    command = f"g++ -std=c++17 -O1 -Wall -Wextra -Werror {EXAMPLES}/cpp/detect.cpp -isystem {includes()} -L{folder}"
    command += f" -Wl,-rpath,{folder} -lonnxruntime -o {folder}/detect"
    made = subprocess.run(command.split(), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder / "detect"


def test_the_example_is_short():
    assert len((EXAMPLES / "cpp" / "detect.cpp").read_text().splitlines()) < 150


def test_cpp_finds_what_the_predictor_finds(client, exported, picture, tmp_path):
    with Image.open(picture) as image:
        whole = image.convert("RGB")
    for number, size in enumerate([(160, 160), (333, 250), (97, 140)]):  # as it is, made smaller, made larger
        file = tmp_path / f"{number}.ppm"
        whole.resize(size, Image.Resampling.BICUBIC).save(file)
        run = subprocess.run([client, exported, file, str(SCORE)], capture_output=True, text=True, check=True)
        lines = [line.split("\t") for line in run.stdout.splitlines()]
        (expected,) = Predictor(exported, backend="onnxruntime", device="cpu")(file, score=SCORE)
        assert [line[0] for line in lines] == expected.names and len(lines) > 0
        tolerance = 1e-3 if number == 0 else 0.02  # resized pixels may differ by 1 of 255 where ours rounds otherwise
        assert [float(line[1]) for line in lines] == pytest.approx(expected.scores.tolist(), abs=tolerance)
        for line, box in zip(lines, expected.boxes_xyxy.tolist(), strict=True):
            assert [float(side) for side in line[2:]] == pytest.approx(box, abs=tolerance * max(size))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.ppm", None, "no such file"),
        ("text.ppm", b"hello", "not a binary PPM"),
        ("cut.ppm", b"P6 4 4 255\nabc", "cut off"),
        ("many.ppm", b"P6 99999999 99999999 255\nabc", "too many pixels"),
    ],
)
def test_cpp_says_in_a_line_what_is_wrong(client, exported, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    run = subprocess.run([client, exported, tmp_path / name], capture_output=True, text=True)
    assert run.returncode == 1 and message in run.stderr and len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["abc"], ["0.4x"], ["nan"], ["0.4", "more"]])
def test_cpp_says_how_it_is_used(client, exported, picture, words):
    run = subprocess.run([client, exported, *([picture, *words] if words else [])], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("usage: ") and run.stdout == ""


@pytest.fixture(scope="module")
def site(exported, tmp_path_factory) -> Path:
    """The web example with its package and its detector, as README.md says; the package comes from npm's registry."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine, which brings onnxruntime-web")
    site = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(EXAMPLES / "web", site, ignore=shutil.ignore_patterns("node_modules", "detector.*"))
    package = "onnxruntime-web@1.30.0"
    try:
        words = ["npm", "pack", package, "--silent", "--fetch-retries=0", "--fetch-timeout=60000"]
        packed = subprocess.run(words, cwd=site, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        packed = None
    if packed is None or packed.returncode:
        pytest.skip(f"npm's registry does not give {package}")
    with tarfile.open(site / packed.stdout.split()[-1]) as archive:
        for member in archive.getmembers():
            if member.name.startswith(("package/dist/ort.wasm.min.", "package/dist/ort-wasm-simd-threaded.")):
                target = site / "node_modules" / "onnxruntime-web" / Path(member.name).relative_to("package")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
    shutil.copy(exported, site / "detector.onnx")
    subprocess.run([sys.executable, "about.py", "detector.onnx"], cwd=site, check=True)
    return site


def test_the_browser_finds_what_the_predictor_finds(site, page, exported, picture, tmp_path):
    with served(site) as address:
        page.goto(f"{address}/index.html")
        said = page.locator("#said")
        wait_for("the model to load", lambda: "Choose a picture" in said.inner_text(), 60)
        page.locator("#score").fill(str(SCORE))
        page.set_input_files("#file", str(picture))
        wait_for("an answer", lambda: "ms" in said.inner_text(), 60)
        found = page.locator("#found li").all()
        (expected,) = Predictor(exported, backend="onnxruntime", device="cpu")(picture, score=SCORE)
        assert [one.inner_text().rsplit(" ", 1)[0] for one in found] == expected.names and len(found) > 0
        for one, box in zip(found, expected.boxes_xyxy.tolist(), strict=True):
            assert [float(side) for side in one.get_attribute("data-box").split()] == pytest.approx(box, abs=0.2)
        drawn, whole = page.locator("#boxes div").last, page.locator("#photo").bounding_box()  # the surest lies on top
        scale = whole["width"] / expected.size_wh[0]
        assert page.locator("#boxes div").count() == len(expected)
        assert drawn.inner_text() == f"{expected.names[0]} {expected.scores[0]:.2f}"
        assert drawn.bounding_box()["x"] - whole["x"] == pytest.approx(float(expected.boxes_xyxy[0, 0]) * scale, abs=2)

        (tmp_path / "notes.jpg").write_text("no picture")
        page.set_input_files("#file", str(tmp_path / "notes.jpg"))
        wait_for("the error", lambda: "notes.jpg: not a picture" in page.locator("#error").inner_text(), 20)
        assert page.locator("#found li").count() == 0 and not page.locator("#photo").is_visible()
        Image.new("RGB", (160, 160), "gray").save(tmp_path / "blank.png")
        page.set_input_files("#file", str(picture))
        page.set_input_files("#file", str(tmp_path / "blank.png"))  # the last one chosen counts
        wait_for("its answer", lambda: "0 objects" in said.inner_text(), 20)
        page.wait_for_timeout(500)
        assert "the best has" in said.inner_text() and page.locator("#photo").get_attribute("alt") == "blank.png"


def test_a_step_that_was_left_out_is_said_in_the_page(browser, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    for gone, way_out in (
        ("detector.json", "about.py"),
        ("detector.onnx", "dfine export"),
        ("node_modules", "npm install"),
    ):
        place = tmp_path / "site" / gone
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        with served(tmp_path / "site") as address:
            page = browser.new_page()
            page.goto(f"{address}/index.html")
            wait_for("the error", lambda page=page: page.locator("#error").inner_text(), 60)
            assert f"{way_out}" in page.locator("#error").inner_text() and page.locator("#said").inner_text() == ""
            page.close()
        if gone == "detector.json":
            shutil.copy(site / gone, place)
