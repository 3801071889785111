"""The classes to keep, given with the command."""

import pytest

from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, voc, write


def test_given_categories_keep_their_order_and_ids_and_others_are_counted(tmp_path):
    objects = [(name, 1, 1, 9, 9, "") for name in ("dog", "cat", "cow", "dog")]
    write(tmp_path / "set" / "a.xml", voc("a.jpg", *objects))
    result, found, data = converted(tmp_path / "set", tmp_path / "1", "voc")
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "cat"), (2, "cow"), (3, "dog")]
    assert [row[0] for row in found["a.jpg"]] == ["dog", "cat", "cow", "dog"]
    result, found, data = converted(tmp_path / "set", tmp_path / "2", "voc", categories="dog, cat,horse")
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "dog"), (2, "cat"), (3, "horse")]
    assert result.left_out("boxes") == {"class 'cow' is not in the list of categories": 1}
    listed = write(tmp_path / "c.json", [{"id": 17, "name": "cat"}, {"id": 4, "name": "dog"}])
    _, _, data = converted(tmp_path / "set", tmp_path / "3", "voc", categories=str(listed))
    assert [box["category_id"] for box in data["annotations"]] == [4, 17, 4]
    listed = write(tmp_path / "c.txt", "cow\ncat\n")
    _, _, data = converted(tmp_path / "set", tmp_path / "4", "voc", categories=str(listed))
    assert [box["category_id"] for box in data["annotations"]] == [2, 1]
    with pytest.raises(DataError, match="stands there twice"):
        converted(tmp_path / "set", tmp_path / "5", "voc", categories="a,a")
    listed = write(tmp_path / "c.yaml", "names:\n  0: cow\n  1: dog\n  2: cat\n")
    _, _, data = converted(tmp_path / "set", tmp_path / "6", "voc", categories=str(listed))
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "cow"), (2, "dog"), (3, "cat")]


@pytest.mark.parametrize("told", ["Dog,Cat,Cow", "dog;cat;cow", "/no/such/list"])
def test_a_list_that_names_no_class_of_the_source_is_refused(tmp_path, told):
    """Otherwise a misspelt list, or the path of one that is not there, gives a set without a single box."""
    write(tmp_path / "set" / "a.xml", voc("a.jpg", *[(name, 1, 1, 9, 9, "") for name in ("dog", "cat", "cow")]))
    with pytest.raises(DataError, match=r"its classes are 'dog', 'cat', 'cow'\. Write them as they stand"):
        converted(tmp_path / "set", tmp_path / "out", "voc", categories=told)
    assert not (tmp_path / "out").exists()
