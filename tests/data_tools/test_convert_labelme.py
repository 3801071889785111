"""LabelMe and X-AnyLabeling, as they occur in the wild, by hand."""

import pytest
from PIL import Image

from data_tools.convert.report import NothingLeft
from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, write


def labelme(path, *shapes, **more):
    """A LabelMe file; shapes as (label, points, more keys)."""
    rows = [{"label": label, "points": points, **keys} for label, points, keys in shapes]
    return {"imagePath": path, "imageWidth": 200, "imageHeight": 100, "shapes": rows, "imageData": None, **more}


def square(x, y, side=10):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def test_rectangles_polygons_circles_and_points(tmp_path):
    picture(tmp_path / "set" / "images" / "a.png")
    content = labelme(
        "..\\images\\a.png",
        ("r", [[60, 50], [10, 20]], {"shape_type": "rectangle"}),
        ("p", [[10, 10], [50, 20], [30, 70]], {}),
        ("c", [[100, 50], [103, 54]], {"shape_type": "circle"}),
        ("d", [[1, 1]], {"shape_type": "point"}),
        ("m", [[3, 4], [9, 8]], {"shape_type": "mask", "mask": "…"}),
        ("l", [[3, 4], [9, 4]], {"shape_type": "line"}),
        ("s", [[3, 4], [9, 8], [5, 20]], {"shape_type": "linestrip"}),
    )
    write(tmp_path / "set" / "labels" / "a.json", content)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert found == {"a.png": [("r", 10, 20, 50, 30), ("p", 10, 10, 40, 60), ("c", 95, 45, 10, 10), ("m", 3, 4, 6, 4),
                               ("s", 3, 4, 6, 16)]}  # fmt: skip
    assert result.left_out("boxes") == {"a point, which has no box": 1, "no area": 1}


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    picture(tmp_path / "set" / "a.png")
    group = [("cat", square(10, 10), {"group_id": 0}), ("dog", square(0, 0), {"group_id": 5}),
             ("cat", square(40, 30), {"group_id": 0}), ("cat", square(70, 70), {"group_id": None}),
             ("cup", square(90, 70), {"group_id": 5})]  # fmt: skip
    write(tmp_path / "set" / "a.json", labelme("a.png", *group))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert found["a.png"] == [("cat", 10, 10, 40, 30), ("dog", 0, 0, 10, 10), ("cat", 70, 70, 10, 10),
                              ("cup", 90, 70, 10, 10)]  # fmt: skip
    assert result.changed == {"shapes of one label and one group_id joined into one box": 1,
                              "group_id with several labels: a box for each label": 1}  # fmt: skip
    result, found, _ = converted(tmp_path / "set", tmp_path / "apart", "labelme", keep_groups=True)
    assert len(found["a.png"]) == 5 and not result.changed


def test_x_anylabeling_turned_boxes_four_corners_and_difficult(tmp_path):
    picture(tmp_path / "set" / "a.png")
    write(tmp_path / "set" / "a.json", labelme(
        "a.png", ("r", square(10, 20), {"shape_type": "rectangle", "group_id": None, "difficult": True}),
        ("t", [[50, 40], [60, 50], [50, 60], [40, 50]], {"shape_type": "rotation", "direction": 0.78}),
        ("q", [[50, 40], [70, 50], [50, 60], [40, 50]], {"shape_type": "quadrilateral", "difficult": False}),
    ))  # fmt: skip
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert found["a.png"] == [("r", 10, 20, 10, 10), ("t", 40, 40, 20, 20), ("q", 40, 40, 30, 20)]
    assert result.changed == {
        "turned box: the upright box around it": 1,
        "difficult object, trained on and ignored in evaluation": 1,
    }
    assert [box.get("difficult", 0) for box in data["annotations"]] == [1, 0, 0]


def test_equal_names_in_several_folders_and_split_folders(tmp_path):
    for i, where in enumerate(("train/cam1", "train/cam2", "Validation/cam1")):
        path = tmp_path / "set" / where / "0000.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (200, 100), 40 * i).save(path)
        write(path.with_suffix(".json"), labelme("0000.jpg", ("x", square(10 + i, 10), {})))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert found == {"cam1/0000.jpg": [("x", 10, 10, 10, 10)], "cam2/0000.jpg": [("x", 11, 10, 10, 10)]}
    assert result.images == {"train": 2, "val": 1}


def test_a_stale_path_gives_way_to_the_image_of_the_files_own_name(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.png")
        write(tmp_path / "set" / f"{name}.json", labelme("b.png", ("x", square(10, 10), {})))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert list(found) == ["a.png", "b.png"]
    assert result.changed == {"the annotation file's own name used, not the other name written in it": 1}


@pytest.mark.parametrize(
    "said", ["C:\\data\\photo 1.jpg", "/home/ann/photo 1.jpg", "../pics/photo 1.jpg", "photo 1.jpg"]
)
def test_a_path_on_the_annotators_disk_counts_by_its_name(tmp_path, said):
    picture(tmp_path / "pics" / "photo 1.jpg")
    write(tmp_path / "set" / "1.json", labelme(said, ("x", square(10, 10), {})))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme", images=tmp_path / "pics")
    assert list(found) == ["photo 1.jpg"]
    assert result.changed == {"no image has the annotation file's own name: the name written in it used": 1}


def test_files_of_other_tools_lying_among_them_are_counted(tmp_path):
    picture(tmp_path / "set" / "a.png")
    write(tmp_path / "set" / "a.json", labelme("a.png", ("x", square(10, 10), {})))
    write(tmp_path / "set" / "b.json", labelme("", imageData="iVBORw0KGgo="))
    write(tmp_path / "set" / "coco.json", {"images": [], "annotations": [], "categories": []})
    write(tmp_path / "set" / "list.json", [1])
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert list(found) == ["a.png"]
    assert result.left_out("annotation files") == {
        "no LabelMe file: COCO (say --from coco)": 1, "no LabelMe file (no list 'shapes')": 1,
    }  # fmt: skip
    assert result.left_out("records") == {"image missing": 1}
    (tmp_path / "set" / "a.json").unlink()
    with pytest.raises(NothingLeft, match="no LabelMe file"):
        converted(tmp_path / "set", tmp_path / "out2", "labelme")
    with pytest.raises(DataError, match="--from coco"):
        converted(tmp_path / "set" / "coco.json", tmp_path / "out3", "labelme")


@pytest.mark.parametrize(
    ("shape", "message"),
    [({"shape_type": "cuboid"}, "'cuboid' is not known"), ({"group_id": 1.5}, "'group_id' should be a whole number"),
     ({"points": [[1]]}, "a point should be 2 numbers"), ({"label": ""}, "'label' should be text")],
)  # fmt: skip
def test_a_shape_that_cannot_be_understood_is_refused(tmp_path, shape, message):
    content = labelme("a.png", ("x", square(1, 1), {}))
    content["shapes"][0] |= shape
    write(tmp_path / "set" / "a.json", content)
    with pytest.raises(DataError, match=rf"a\.json, shapes\[0\]: .*{message}"):
        converted(tmp_path / "set", tmp_path / "out", "labelme")


def test_an_image_without_shapes_stays(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.png", 200 if name == "a" else 100)
    write(tmp_path / "set" / "a.json", labelme("a.png", ("x", square(1, 1), {})))
    write(tmp_path / "set" / "b.json", labelme("b.png", imageWidth=100))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "labelme")
    assert found["b.png"] == [] and result.images == {"train": 2}
