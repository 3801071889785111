"""What was found in an image, in every form it can take."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dfine_tools.deploy.backends import EdgeDistributions
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.ties import Limits, compare


def same_objects(one, other, score=0.3, box_tolerance=1e-3, score_tolerance=1e-3):
    """Where two answers differ, in words; empty: they are the same as sets of objects."""
    return compare(one, other, score, Limits(box_tolerance, score_tolerance, 0.0, 0.0, rounding=-1.0))[0]


def prediction(**changes) -> Prediction:
    """Two objects on a grey image of 60 x 40."""
    values = dict(
        name="grey.png",
        size_wh=(60, 40),
        labels=torch.tensor([1, 0]),
        boxes_xyxy=torch.tensor([[10.0, 5.0, 30.0, 25.0], [40.0, 20.0, 55.0, 38.0]]),
        scores=torch.tensor([0.9, 0.5]),
        class_names=("cat", "dog"),
        category_ids=(7, 3),
        image=torch.full((3, 40, 60), 128, dtype=torch.uint8),
    )
    return Prediction(**values | changes)


def test_names_go_by_label_and_a_nameless_class_shows_its_label():
    assert prediction().names == ["dog", "cat"]
    assert prediction(class_names=()).names == ["1", "0"]
    assert prediction(class_names=("", "dog")).names == ["dog", "0"]
    assert str(prediction()) == "grey.png: 1 dog, 1 cat"


def test_coco_records_have_left_top_width_height_and_the_data_sets_ids():
    first, second = prediction().to_coco(image_id=12)
    assert first == {"image_id": 12, "category_id": 3, "bbox": [10, 5, 20, 20], "score": pytest.approx(0.9)}
    assert second["category_id"] == 7
    assert [r["category_id"] for r in prediction(category_ids=()).to_coco(1)] == [1, 0]
    assert [r["category_id"] for r in prediction().to_coco(1, category_ids=[50, 60])] == [60, 50]
    assert '"image_id": 12' in json.dumps(prediction().to_coco(np.int64(12)))
    with pytest.raises(ValueError, match="label 1 for 1 category"):
        prediction().to_coco(1, category_ids=[50])


def test_json_reads_back_as_it_was():
    about = json.loads(prediction(frame=3, time_s=0.12).to_json())
    assert (about["image"], about["width"], about["height"], about["frame"], about["time_s"]) == (
        "grey.png", 60, 40, 3, 0.12
    )  # fmt: skip
    assert about["detections"][0] == {
        "label": 1, "category_id": 3, "name": "dog", "score": 0.9, "box_xyxy": [10, 5, 30, 25]
    }  # fmt: skip


def test_a_class_without_a_category_id_has_none_rather_than_its_label():
    assert [one["category_id"] for one in prediction(category_ids=()).to_dict()["detections"]] == [None, None]
    assert [one["category_id"] for one in prediction(category_ids=(7,)).to_dict()["detections"]] == [None, 7]
    assert json.loads(prediction().above(0.95).to_json())["detections"] == []


def test_above_cuts_every_column_alike():
    edges = EdgeDistributions(torch.rand(2, 4, 5), torch.rand(2, 4, 5))
    one = prediction(edges=edges).above(0.6)
    assert len(one) == 1 and one.names == ["dog"]
    assert torch.equal(one.edges.probabilities, edges.probabilities[:1])
    assert len(prediction().above(0.5)) == 2, "at least the score, not more than it"


def test_boxes_are_drawn_where_they_are_and_the_image_stays_as_it_was():
    one = prediction().above(0.6)
    before = one.image.clone()
    drawn = one.drawn()
    assert drawn.shape == (40, 60, 3) and drawn.dtype == np.uint8
    changed = (drawn != 128).any(-1)
    assert changed[15, 10] and changed[15, 30] and changed[25, 20]
    assert not changed[15:20, 12:28].any() and not changed[30:].any()
    assert torch.equal(one.image, before)


def test_a_figure_has_words():
    assert "dog 0.90" in prediction().figure().alt_text
    assert "nothing found" in prediction().above(0.99).figure().alt_text


def test_show_without_notebook_and_screen_says_so_in_a_line(monkeypatch, caplog):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False), monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert prediction().show() is None
    (line,) = caplog.messages
    assert line.startswith("no notebook and no screen") and "dog 0.90" in line and "\n" not in line


def test_show_opens_a_viewer_where_there_is_a_screen(monkeypatch, caplog):
    monkeypatch.setenv("DISPLAY", ":7")
    shown = []
    monkeypatch.setattr("PIL.ImageShow.show", lambda image: bool(shown.append(image.size)) or True)
    prediction().show()
    assert len(shown) == 1 and min(shown[0]) > 100 and not caplog.messages
    monkeypatch.setattr("PIL.ImageShow.show", lambda image: False)  # no viewer is installed
    prediction().show()
    assert len(caplog.messages) == 1


def test_show_in_a_notebook_shows_in_a_loop_too(monkeypatch, caplog):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(display, "display", shown.append)
    for one in (prediction(), prediction()):
        one.show()
    assert len(shown) == 2 and "image/png" in shown[0]._repr_mimebundle_() and not caplog.messages


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_save_writes_a_image_of_the_same_size(tmp_path, suffix):
    path = prediction().save(tmp_path / "new" / f"out{suffix}")
    with Image.open(path) as image:
        assert image.size == (60, 40)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_image_is_never_written_over_by_its_own_annotations(tmp_path):
    file = tmp_path / "grey.png"
    Image.new("RGB", (60, 40)).save(file)
    before = file.read_bytes()
    with pytest.raises(SourceError, match="the image itself"):
        prediction(image=None, path=file).save(file)
    assert file.read_bytes() == before
    with pytest.raises(SourceError, match="no kind of image"):
        prediction().save(tmp_path / "x.docx")


def test_a_image_that_was_not_kept_is_read_again_or_asked_for(tmp_path):
    file = tmp_path / "red.png"
    Image.new("RGB", (60, 40), (255, 0, 0)).save(file)
    assert prediction(image=None, path=file).pixels()[:, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(SourceError, match="keep_images"):
        prediction(image=None).drawn()


def test_supervision_gets_the_same_numbers():
    pytest.importorskip("supervision")
    found = prediction().to_supervision()
    np.testing.assert_allclose(found.xyxy, prediction().boxes_xyxy)
    assert found.class_id.tolist() == [1, 0] and found.data["class_name"].tolist() == ["dog", "cat"]
    assert len(prediction().above(0.99).to_supervision()) == 0


def test_without_supervision_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        prediction().to_supervision()


def test_same_objects_looks_at_labels_boxes_scores_and_numbers():
    one = prediction()
    order = torch.tensor([1, 0])
    swapped = prediction(labels=one.labels[order], boxes_xyxy=one.boxes_xyxy[order], scores=one.scores[order])
    assert same_objects(one, one) == [] and same_objects(one, swapped) == []
    assert same_objects(one, prediction(boxes_xyxy=one.boxes_xyxy + 0.05)) == []  # 1e-3 of 60 px is 0.06
    assert len(same_objects(one, prediction(boxes_xyxy=one.boxes_xyxy + 0.07))) == 4
    assert len(same_objects(one, prediction(labels=torch.tensor([0, 0])))) == 2
    assert len(same_objects(one, prediction(scores=torch.tensor([0.9, 0.49])))) == 2
    assert len(same_objects(one, one.above(0.6))) == 1
    assert same_objects(one, one.above(0.6), score=0.6) == []


def test_an_object_found_twice_is_not_the_same_as_found_once():
    one = prediction()
    twice = prediction(
        labels=one.labels[[0, 0, 1]], boxes_xyxy=one.boxes_xyxy[[0, 0, 1]], scores=one.scores[[0, 0, 1]]
    )  # fmt: skip
    assert len(same_objects(one, twice)) == 1
