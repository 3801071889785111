"""The sliders of the lessons, dragged in a real browser: the picture follows, the console stays clean."""

from __future__ import annotations

import pytest

from tests.browser.conftest import ROOT, wait_for

LESSONS = ["00_start_here.ipynb", "lessons/14_weighting_function.ipynb", "lessons/15_distributions_to_boxes.ipynb"]


def open_and_run(page, lab, notebook: str) -> None:
    """Open a notebook, wait until its kernel listens, run all cells."""
    known = {kernel["id"] for kernel in lab.kernels()}
    page.goto(lab.page(notebook))

    def ready() -> bool:
        new = [kernel for kernel in lab.kernels() if kernel["id"] not in known]
        return any(kernel["execution_state"] == "idle" and kernel["connections"] >= 1 for kernel in new)

    wait_for(f"the kernel of {notebook}", ready)
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()


def picture_of(handle):
    """The picture in the same widget as a slider's handle."""
    return handle.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]").locator("img.dfine-figure")


@pytest.mark.parametrize("notebook", LESSONS)
def test_a_dragged_slider_changes_the_picture(lab, browser, notebook):
    if not (ROOT / "notebooks" / notebook).exists():
        pytest.fail(f"notebooks/{notebook} is missing")
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        open_and_run(page, lab, notebook)
        handle = page.locator(".noUi-handle").first
        handle.wait_for(timeout=120_000)
        handle.scroll_into_view_if_needed()
        picture = picture_of(handle).first
        before = picture.get_attribute("src")

        handle.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        wait_for("a new picture after a key", lambda: picture.get_attribute("src") != before, 30)

        pressed = picture.get_attribute("src")
        place = handle.bounding_box()
        middle = (place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 160, middle[1], steps=8)
        page.mouse.up()
        wait_for("a new picture after dragging", lambda: picture.get_attribute("src") != pressed, 30)
        assert picture.bounding_box()["width"] > 400
        assert errors == []
    finally:
        page.close()
