"""The site: built once without a warning, then read in a real browser as a visitor without a network would read it."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
import threading
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.notebooks.test_lessons import BOTH, ROOT, pictures

for _name in ("sphinx", "myst_nb", "furo", "latex2mathml"):
    pytest.importorskip(_name, reason="the extra `docs` is not installed")

LESSON = "notebooks/lessons/14_weighting_function.html"
PAGES = ("docs/index.html", "docs/glossary.html", "docs/speed.html", LESSON, "docs/api/dfine_lib.model.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make site` builds; a warning (a broken link, a formula that is not converted) fails it."""
    out = tmp_path_factory.mktemp("site")
    command = [
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(out / "doctrees"),
        "-c",
        "docs",
        ".",
        str(out / "html"),
    ]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return out / "html"


class _Loaded(HTMLParser):
    """What a page loads by itself, and where its links lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(values.get("href", ""))
        elif tag == "link" and values.get("rel") not in ("stylesheet", "icon", "shortcut icon", "preload"):
            return
        else:
            self.loaded += [values[name] for name in ("src", "href") if name in values]


@pytest.fixture(scope="module")
def parsed(site):
    return {page: _Loaded(page.read_text(encoding="utf-8")) for page in sorted(site.rglob("*.html"))}


def test_no_page_loads_anything_from_another_host(parsed):
    assert [
        (page.name, one) for page, found in parsed.items() for one in found.loaded if "//" in one.split("?")[0]
    ] == []


def test_every_link_within_the_site_leads_to_a_file(site, parsed):
    broken = []
    for page, found in parsed.items():
        for link in found.links:
            path = re.split(r"[?#]", link)[0]
            if path and not re.match(r"[a-z]+:", path) and not (page.parent / path).is_file():
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.parametrize("notebook", BOTH, ids=lambda notebook: notebook.name)
def test_a_notebook_is_a_page_with_the_alternative_text_of_all_its_images(site, notebook):
    page = (site / notebook.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")
    text = " ".join(unescape(page).split())
    for _, words in pictures(notebook):
        assert " ".join(words.split()) in text
    assert "docs/glossary.html" in page


def test_every_public_module_is_in_the_reference(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "docs/api").glob("*.html"))
    for package in ("dfine_lib", "data_tools", "dfine_tools"):
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if "._" not in name:
                assert f'id="module-{name}"' in pages, name


def test_a_link_to_a_file_of_the_library_leads_to_its_coloured_text(site):
    page = (site / LESSON).read_text(encoding="utf-8")
    assert 'href="../../_modules/dfine_lib/model/distribution.html"' in page
    assert "weighting_function" in (site / "_modules/dfine_lib/model/distribution.html").read_text(encoding="utf-8")


def test_a_formula_that_cannot_be_converted_is_a_warning_and_shown_as_it_was_written(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    module = importlib.import_module("extensions.mathml")
    warned: list[tuple] = []
    monkeypatch.setattr(module.logger, "warning", lambda *message, **_: warned.append(message))
    assert module.mathml(r"\frac{a}{b} < 1", "inline").startswith('<math alttext="\\frac{a}{b} &lt; 1"')
    assert warned == []
    for tex in (r"\nosuchcommand{x}", r"\frac{a}"):
        assert module.mathml(tex, "inline") == f"<code>{tex}</code>"
        assert warned.pop()[-1] == tex


# ---- in the browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def not_left(request) -> bool:
    """A request that is cut because the tab goes to another page is no failure."""
    return "ERR_ABORTED" not in (request.failure or "")


@pytest.fixture
def tab(browser, address):
    """A tab that, when closed, has said nothing on its console and asked no other host."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((address, "data:")) else complaints.append(one.url))
    page.on("requestfailed", lambda one: complaints.append(f"failed: {one.url}") if not_left(one) else None)
    yield page
    page.close()
    assert complaints == []


def test_the_search_finds_the_weighting_function(tab, address):
    tab.goto(f"{address}/index.html")
    tab.wait_for_url("**/docs/index.html")
    tab.fill(".sidebar-search", "weighting function")
    tab.press(".sidebar-search", "Enter")
    tab.wait_for_selector("#search-results ul.search li a")
    found = tab.eval_on_selector_all("#search-results ul.search li a", "links => links.map(link => link.href)")
    assert any(LESSON in one for one in found), found


def test_a_formula_is_drawn(tab, address):
    tab.goto(f"{address}/{LESSON}")
    assert tab.locator("div.math math").count() > 0
    box = tab.locator("div.math math").first.bounding_box()
    assert box["height"] > 15 and box["width"] > 50
    assert tab.locator("div.math math mfrac, math mfrac").count() > 0  # not only letters
    assert "\\frac" not in tab.locator("article").inner_text()


def test_a_lesson_leads_to_the_next_and_back(tab, address):
    tab.goto(f"{address}/{LESSON}")
    tab.click("a.next-page")
    tab.wait_for_url("**/15_distributions_to_boxes.html")
    tab.click("a.prev-page")
    tab.wait_for_url(f"**/{LESSON}")


@pytest.mark.parametrize("page", PAGES)
def test_on_a_phone_a_page_does_not_scroll_sideways(tab, address, page):
    tab.set_viewport_size({"width": 375, "height": 740})
    tab.goto(f"{address}/{page}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375


def test_in_the_dark_the_code_of_a_lesson_is_dark_too(tab, address):
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{address}/{LESSON}")
    for place in ("body", "div.cell_input div.highlight", "div.cell_output"):
        colour = tab.locator(place).first.evaluate("""element => {
            for (; element; element = element.parentElement) {
                const colour = getComputedStyle(element).backgroundColor;
                if (colour !== "rgba(0, 0, 0, 0)") return colour;
            }
        }""")
        assert max(map(int, re.findall(r"\d+", colour)[:3])) < 100, (place, colour)
