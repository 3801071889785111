"""The lessons as web pages: every picture there without a kernel, every link leading somewhere."""

from __future__ import annotations

import re

import pytest

from tests.notebooks.test_lessons import BOTH, NOTEBOOKS, lessons, pictures

pytest.importorskip("nbconvert")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    return out, lessons.site(out)


def test_its_links_hold(site):
    _, broken = site
    assert broken == []


def test_every_notebook_is_a_page_with_all_its_pictures(site):
    out, _ = site
    for notebook in BOTH:
        page = (out / notebook.relative_to(NOTEBOOKS).with_suffix(".html")).read_text(encoding="utf-8")
        shown = re.findall(r'<img[^>]*src="data:image/png;base64,', page)
        assert len(shown) == len(pictures(notebook)), notebook.name
        assert "No description" not in page, f"{notebook.name}: a picture without words"
        assert ".ipynb" not in "".join(link for link in lessons.links_of(page) if "://" not in link), notebook.name


def test_the_front_page_lists_every_lesson(site):
    out, _ = site
    front = (out / "index.html").read_text(encoding="utf-8")
    for notebook in BOTH:
        assert notebook.relative_to(NOTEBOOKS).with_suffix(".html").as_posix() in front


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">b</a> <a href="c.html">c</a> <a href="b.html#gone">b</a>')
    (tmp_path / "b.html").write_text('<p id="there"><a href="https://example.org/x">out</a><img src="d.png"></p>')
    assert lessons.broken_links(tmp_path) == ["a.html: c.html", "a.html: b.html#gone", "b.html: d.png"]
