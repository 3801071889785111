from __future__ import annotations

import json
import math
import os
from html.parser import HTMLParser

import pytest
from workbook import viz

from dfine_tools.pages.report import write_metrics, write_report


class Page(HTMLParser):
    """Start tags with their attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_text_tables_and_figures_come_out_in_order(tmp_path):
    path = write_report(
        tmp_path / "new" / "report.html",
        "Run <1>",
        [
            ("Setting", {"recipe": "pico", "epochs": 3}),
            ("Classes", [{"class": "a & b", "AP": 0.123456}, {"class": "c", "AP": None}]),
            ("Pictures", ["First.\n\nSecond.", viz.per_class_ap({'say "a"': 0.5})]),
        ],
    )
    page = Page(path.read_text(encoding="utf-8"))
    words = [w.strip() for w in page.words if w.strip()]
    assert words.index("Setting") < words.index("Classes") < words.index("Pictures") < words.index("First.")
    assert {"Run <1>", "recipe", "pico", "3", "a & b", "0.1235", "–", "Second."} <= set(words)
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == 'AP by class: say "a" 0.50.'
    assert image["src"].startswith("data:image/png;base64,")


def test_a_report_needs_nothing_beside_it(tmp_path):
    text = write_report(tmp_path / "r.html", "t", [("h", viz.per_class_ap({"a": 0.5}))]).read_text(encoding="utf-8")
    assert "http" not in text
    assert not {"link", "script", "iframe"} & {tag for tag, _ in Page(text).tags}


def test_what_a_report_cannot_show_is_refused_and_the_old_page_stays(tmp_path):
    path = write_report(tmp_path / "report.html", "old", [])
    with pytest.raises(TypeError, match=r"'Numbers'.*int"):
        write_report(path, "new", [("Numbers", 3)])
    assert "old" in path.read_text(encoding="utf-8")


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = write_metrics(tmp_path / "metrics.json", {"ap": 0.5})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_metrics(path, {"ap": 0.6})
    assert json.loads(path.read_text()) == {"ap": 0.5}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_metrics_are_readable_by_others_and_hold_no_nan(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", {"ap": None})
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_metrics(path, {"ap": math.nan})


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
