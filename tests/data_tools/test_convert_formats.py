"""What holds for every format: names of another machine, and the source, which is left as it was."""

from pathlib import Path

import pytest

from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, voc, write


def test_a_path_on_the_annotators_disk_counts_by_its_name_where_the_folder_of_the_pictures_is_given(tmp_path):
    picture(tmp_path / "pictures" / "a.jpg")
    write(tmp_path / "csv" / "b.csv", "/data/imgs/a.jpg,10,20,40,60,x\n")
    with pytest.raises(DataError, match="--images"):
        converted(tmp_path / "csv", tmp_path / "out", "csv")
    result, found, _ = converted(tmp_path / "csv", tmp_path / "out", "csv", images=tmp_path / "pictures")
    assert found == {"a.jpg": [("x", 10, 20, 30, 40)]}
    assert result.changed == {"leading folders left off the file name": 1}


def test_the_source_is_left_as_it_was(tmp_path):
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.xml", voc("a.jpg", ("cat", 1, 1, 9, 9, "")))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "set").iterdir()}
    converted(tmp_path / "set", tmp_path / "out", "voc", image_files="copy")
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "set").iterdir()}
    copy = tmp_path / "out" / "images" / "train" / "a.jpg"
    assert copy.stat().st_nlink == 1
    assert Path(copy).read_bytes() == (tmp_path / "set" / "a.jpg").read_bytes()
