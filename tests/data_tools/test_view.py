"""What FiftyOne is shown, and what is said where it cannot be: it is no part of the tests' environment."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from data_tools.view import read_predictions, samples, view
from dfine_lib.data import DataError, find_split, read_coco
from dfine_tools.cli import main
from tests.small_runs import write_folder


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", images=3)


@pytest.fixture
def index(data):
    return read_coco(*find_split(data, "val"), training=False)


def stub(database: Exception | None = None) -> ModuleType:
    """A module of FiftyOne's names that keeps what it is given."""
    module = ModuleType("fiftyone")
    module.opened = []

    def list_datasets() -> list[str]:
        if database:
            raise database
        return []

    def launch_app(dataset, **options) -> SimpleNamespace:
        module.opened.append((dataset, options))
        return SimpleNamespace(wait=lambda: module.opened.append("waited"))

    class Dataset(list):
        add_samples = list.extend

    module.list_datasets, module.launch_app, module.Dataset = list_datasets, launch_app, Dataset
    for name in ("Sample", "Detections", "Detection"):
        setattr(module, name, SimpleNamespace)
    return module


def test_without_the_package_the_command_says_what_to_install(data, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    assert main(["data", "view", str(data)]) == 2
    told = capsys.readouterr().err
    assert "FiftyOne" in told
    assert 'pip install -e ".[fiftyone]"' in told
    assert "dfine stats" in told
    assert "Traceback" not in told


def test_a_database_that_does_not_start_is_told(data, monkeypatch, capsys):
    class FiftyOneConfigError(Exception):
        """As the package raises it where there is no `mongod`."""

    monkeypatch.setitem(sys.modules, "fiftyone", stub(FiftyOneConfigError("MongoDB could not be installed")))
    assert main(["data", "view", str(data)]) == 2
    told = capsys.readouterr().err
    assert "its database does not start: MongoDB could not be installed" in told
    assert "FIFTYONE_DATABASE_URI" in told


def test_pictures_boxes_and_predictions_are_shown_on_this_machine_only(data, index, monkeypatch, tmp_path, capsys):
    module = stub()
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    found = tmp_path / "found.json"
    found.write_text(json.dumps([{"image_id": 2, "category_id": 8, "bbox": [16, 32, 8, 16], "score": 0.5}]))
    assert main(["data", "view", str(data), "--predictions", str(found)]) == 0
    assert capsys.readouterr().out == "val: 3 images, 4 boxes, 1 predictions\n"
    (shown, options), waited = module.opened
    assert (options["address"], waited) == ("127.0.0.1", "waited")
    assert [sample.filepath for sample in shown] == [str(index.file_name(i).resolve()) for i in range(3)]
    (box,) = shown[1].predictions.detections
    assert (box.label, box.bounding_box, box.confidence) == ("bar", [0.25, 0.5, 0.125, 0.25], 0.5)
    left, top, right, bottom = index.targets(0)[1][0] / 64
    (truth,) = shown[0].ground_truth.detections
    assert truth.bounding_box == pytest.approx([left, top, right - left, bottom - top])
    assert shown[0].predictions.detections == []


def test_predictions_of_the_command_are_found_by_their_path(index, tmp_path):
    one = {"label": 1, "name": "bar", "score": 0.9, "box_xyxy": [1, 2, 11, 22]}
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{"image": "0.png", "path": str(index.file_name(0)), "detections": [one]},
                                {"image": "z.png", "path": "/elsewhere/z.png", "detections": [one]}]))  # fmt: skip
    assert read_predictions(file, index) == {0: [("bar", [1.0, 2.0, 10.0, 20.0], 0.9)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected a list"), ("[1]", "no predictions"), ("[" * 10**6, "no predictions"), ("x", "no predictions"),
        ('[{"image_id": 1, "bbox": [1, 2], "score": 1}]', "no predictions"),
        ('[{"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "no detection on an image"),
    ],
)  # fmt: skip
def test_another_file_is_refused(index, tmp_path, content, message):
    file = tmp_path / "found.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        read_predictions(file, index)
    with pytest.raises(DataError, match="no such file"):
        read_predictions(tmp_path / "nowhere.json", index)


def test_the_package_itself_takes_the_samples_where_it_is_installed(index):
    fiftyone = pytest.importorskip("fiftyone", reason="the extra `fiftyone` is not installed")
    made = samples(fiftyone, index, {0: [("bar", [1.0, 2.0, 10.0, 20.0], 0.9)]})
    assert made[0].predictions.detections[0].confidence == 0.9
    assert len(made[1].ground_truth.detections) == 2


def test_a_split_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="no val split"):
        view(tmp_path)
