"""CVAT's XML, as its exports are, by hand."""

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.conversion import convert
from data_tools.convert.report import NothingLeft, Options
from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, write

AT = 'xtl="10" ytl="20" xbr="40" ybr="60"'
BOX = f'<box label="b" {AT}/>'


def shade(path, value):
    """An image with content of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (200, 100), value).save(path)


def xml(*elements, meta=""):
    return f"<annotations><version>1.1</version><meta>{meta}</meta>{''.join(elements)}</annotations>"


def image(name, shapes=BOX, **attributes):
    rest = "".join(f' {key}="{value}"' for key, value in ({"id": 0, "width": 200, "height": 100} | attributes).items())
    return f'<image name="{name}"{rest}>{shapes}</image>'


def track(*frames, left=10, **attributes):
    rest = "".join(f' {key}="{value}"' for key, value in ({"id": 0, "label": "b"} | attributes).items())
    rows = "".join(f'<box frame="{i}" outside="0" xtl="{left}" ytl="20" xbr="40" ybr="60"/>' for i in frames)
    return f"<track{rest}>{rows}</track>"


def task(identity, stop, subset="", **more):
    rest = "".join(f"<{key}>{value}</{key}>" for key, value in more.items())
    return (f"<task><id>{identity}</id><name>t {identity}</name><size>{stop + 1}</size><subset>{subset}</subset>"
            f"<start_frame>0</start_frame><stop_frame>{stop}</stop_frame>{rest}</task>")  # fmt: skip


def test_tracks_become_boxes_of_frames(tmp_path):
    for frame in (4, 6, 8):
        picture(tmp_path / "set" / "images" / f"frame_{frame:06d}.PNG")
    text = f"""<annotations><meta><task><start_frame>4</start_frame><stop_frame>8</stop_frame><frame_filter>step=2
    </frame_filter><labels><label><name>b</name></label></labels><original_size><width>200</width><height>100</height>
    </original_size></task></meta><track id="0" label="b"><box frame="4" outside="0" {AT}/>
    <box frame="6" outside="1" {AT}/></track><track id="1" label="b"><polygon frame="4" points="1,2;5.5,9;3,20"/>
    <points frame="6" points="1,1"/></track></annotations>"""
    write(tmp_path / "set" / "annotations.xml", text)
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    boxes = [("b", 10, 20, 30, 40), ("b", 1, 2, 4.5, 18)]
    assert found == {"frame_000004.PNG": boxes, "frame_000006.PNG": [], "frame_000008.PNG": []}
    assert result.left_out("boxes") == {"<points>, which has no box": 1}
    write(tmp_path / "set" / "annotations.xml", text.replace("<stop_frame>8", "<stop_frame>9000000"))
    with pytest.raises(DataError, match="no video"):
        converted(tmp_path / "set", tmp_path / "out2", "cvat")


def test_subsets_turned_boxes_and_outlines(tmp_path):
    labels = ("<label><name>b</name></label><label><name>a</name></label><label><name>nose</name><type>points</type>"
              "</label>")  # fmt: skip
    shapes = """<box label="a" xtl="40" ytl="40" xbr="80" ybr="60" rotation="90"/>
    <polygon label="b" points="1,2;5.5,9;3,20"/><ellipse label="a" cx="50" cy="50" rx="20" ry="10" rotation="90.0"/>
    <points label="a" points="1,1"/><mask label="b" rle="1,2" left="3" top="4" width="5" height="6"/>
    <skeleton label="a"><points label="nose" points="1,1"/></skeleton><tag label="a"/>"""
    write(tmp_path / "set" / "annotations.xml",
          xml(image("x/1.jpg", shapes, subset="Validation"),
              meta=f"<task><labels>{labels}</labels></task>"))  # fmt: skip
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "cvat", split="val")
    np.testing.assert_allclose(
        [row[1:] for row in found["x/1.jpg"]],
        [[50, 30, 20, 40], [1, 2, 4.5, 18], [40, 30, 20, 40], [3, 4, 5, 6]],
        atol=1e-6,
    )
    assert [c["name"] for c in data["categories"]] == ["b", "a"]
    assert result.left_out("boxes") == {
        "<points>, which has no box": 1, "<skeleton>, which has no box": 1, "<tag>, which has no box": 1,
    }  # fmt: skip
    assert result.left_out("classes") == {"label of type points, which has no boxes": 1}
    assert result.changed == {"turned box: the upright box around it": 1}


def test_frames_of_two_tasks_are_different_images(tmp_path):
    for name in ("task5", "task6"):
        for frame in (0, 1):
            shade(tmp_path / "set" / "images" / name / f"frame_{frame:06d}.png", 30 * int(name[4]) + frame)
    tracks = track(0, 1, task_id=5, subset="Train"), track(0, 1, left=30, task_id=6, subset="Train")
    meta = f"<project><tasks>{task(5, 1, 'Train')}{task(6, 1, 'Train')}</tasks></project>"
    write(tmp_path / "set" / "annotations.xml", xml(*tracks, meta=meta))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert {name: row[0][1] for name, row in found.items()} == {
        f"task{i}/frame_00000{frame}.png": left for i, left in ((5, 10), (6, 30)) for frame in (0, 1)
    }  # fmt: skip
    (tmp_path / "set" / "images" / "task5").rename(tmp_path / "set" / "images" / "Train")  # which task's frames?
    (tmp_path / "set" / "images" / "task6").rename(tmp_path / "set" / "images" / "elsewhere")
    with pytest.raises(DataError, match="Give --images a folder that holds 'task6' and 'task5'"):
        converted(tmp_path / "set", tmp_path / "out2", "cvat")


def test_frames_of_tasks_in_two_subsets_lie_in_the_folders_of_the_subsets(tmp_path):
    for i, name in enumerate(("Train", "Validation")):
        shade(tmp_path / "set" / "images" / name / "frame_000000.PNG", 30 * i)
    tracks = track(0, task_id=5, subset="Train"), track(0, left=30, task_id=6, subset="Validation")
    write(tmp_path / "set" / "annotations.xml", xml(*tracks))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat", split="val")
    assert result.images == {"train": 1, "val": 1} and found == {"frame_000000.PNG": [("b", 30, 20, 10, 40)]}
    (tmp_path / "flat").mkdir()
    for i in range(2):
        shade(tmp_path / "flat" / f"frame_00000{i}.png", i)
    with pytest.raises(DataError, match="An image belongs to one split"):
        converted(tmp_path / "set" / "annotations.xml", tmp_path / "out2", "cvat", images=tmp_path / "flat")


def test_frames_of_a_project_that_count_on_from_task_to_task(tmp_path):
    for frame in range(5):
        shade(tmp_path / "set" / "images" / "Train" / f"frame_{frame:06d}.PNG", 20 * frame)
    tracks = track(0, task_id=5, subset="Train"), track(4, task_id=6, subset="Train")
    meta = f"<project><tasks>{task(5, 1, 'Train')}{task(6, 2, 'Train')}</tasks></project>"
    write(tmp_path / "set" / "annotations.xml", xml(*tracks, meta=meta))
    _, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert [len(found[f"frame_{i:06d}.PNG"]) for i in range(5)] == [1, 0, 0, 0, 1]


def test_images_of_one_name_in_two_tasks_are_different_images(tmp_path):
    for i in (5, 6):
        shade(tmp_path / "set" / "images" / f"task_{i}" / "a.jpg", 30 * i)
    shade(tmp_path / "set" / "images" / "b.jpg", 5)
    images = (image("a.jpg", subset="Train", task_id=5), image("a.jpg", subset="Train", task_id=6, id=1),
              image("b.jpg", subset="Train", task_id=6, id=2))  # fmt: skip
    write(tmp_path / "set" / "annotations.xml", xml(*images))
    _, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert set(found) == {"task_5/a.jpg", "task_6/a.jpg", "b.jpg"}


@pytest.mark.parametrize("word", ["Train", "train", "TRAINING"])
def test_images_of_one_name_in_two_subsets(tmp_path, word):
    for i, name in enumerate((word, "Val")):
        shade(tmp_path / "set" / "images" / name / "a.jpg", 30 * i)
    write(tmp_path / "set" / "annotations.xml",
          xml(image("a.jpg", subset=word, task_id=1), image("a.jpg", subset="Val", task_id=2)))  # fmt: skip
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert result.images == {"train": 1, "val": 1} and list(found) == ["a.jpg"]


def test_several_exports_in_one_folder(tmp_path):
    for i, name in enumerate(("morning", "evening")):
        shade(tmp_path / "set" / name / "images" / "frame_000000.PNG", 30 * i)
        shade(tmp_path / "set" / name / "images" / f"{name}.jpg", 30 * i + 9)
        write(tmp_path / "set" / name / "annotations.xml",
              xml(image(f"{name}.jpg"), image("frame_000000", id=1, shapes=f'<box label="{name}" {AT}/>'),
                  meta="<task><labels><label><name>b</name></label>"
                       f"<label><name>{name}</name></label></labels></task>"))  # fmt: skip
    write(tmp_path / "set" / "pom.xml", "<project/>")
    result, found, data = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert set(found) == {"morning.jpg", "evening.jpg", "morning/frame_000000.PNG", "evening/frame_000000.PNG"}
    assert found["morning/frame_000000.PNG"][0][0] == "morning"
    assert result.left_out("annotation files") == {"no <annotations> but <project>": 1}
    assert {c["name"] for c in data["categories"]} == {"b", "morning", "evening"}


def test_files_named_as_splits_and_the_subset_of_a_task(tmp_path):
    for i, name in enumerate("abc"):
        shade(tmp_path / "set" / "images" / f"{name}.jpg", 30 * i)
    write(tmp_path / "set" / "train.xml", xml(image("a.jpg")))
    write(tmp_path / "set" / "val.xml", xml(image("b.jpg")))
    write(tmp_path / "set" / "x.xml", xml(image("c.jpg"), meta=task(1, 0, "Test")))
    assert converted(tmp_path / "set", tmp_path / "out", "cvat")[0].images == {"train": 1, "val": 1, "test": 1}


def test_the_subset_default_is_the_users_split_where_it_is_the_only_one(tmp_path):
    for i, name in enumerate("ab"):
        shade(tmp_path / "set" / "images" / "default" / f"{name}.jpg", 30 * i)
    file = write(tmp_path / "set" / "annotations.xml", xml(image("a.jpg", subset="default"), image("b.jpg", id=1)))
    options = Options(split="val", progress=False)
    assert convert(tmp_path / "set", tmp_path / "out", read="cvat", options=options).images == {"val": 2}
    write(file, xml(image("a.jpg", subset="default"), image("b.jpg", subset="Train", id=1)))
    assert converted(tmp_path / "set", tmp_path / "out2", "cvat")[0].images == {"default": 1, "train": 1}


def test_tracks_beside_images_belong_to_the_image_of_their_frame(tmp_path):
    for i in range(2):
        shade(tmp_path / "set" / "images" / f"{'ab'[i]}.jpg", 30 * i)
    shade(tmp_path / "set" / "images" / "frame_000007.png", 99)
    write(tmp_path / "set" / "annotations.xml",
          xml(image("a.jpg", ""), image("b.jpg", id=1), track(0, 1, 7, left=15)))  # fmt: skip
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert {name: [row[1] for row in rows] for name, rows in found.items()} == {
        "a.jpg": [15], "b.jpg": [10, 15], "frame_000007.png": [15],
    }  # fmt: skip


def test_deleted_frames_are_images_that_are_missing(tmp_path):
    for frame in (0, 2):
        shade(tmp_path / "set" / "images" / f"frame_{frame:06d}.PNG", 20 * frame)
    write(tmp_path / "set" / "annotations.xml", xml(track(0, 1, 2), meta=task(3, 2)))
    result, found, _ = converted(tmp_path / "set", tmp_path / "out", "cvat")
    assert list(found) == ["frame_000000.PNG", "frame_000002.PNG"]
    assert result.left_out("records") == {"image missing": 1} and result.left_out("boxes") == {"image left out": 1}
    for frame in (0, 2):
        (tmp_path / "set" / "images" / f"frame_{frame:06d}.PNG").rename(tmp_path / "set" / f"{frame}.png")
    with pytest.raises(NothingLeft, match=r"image missing \(first: .*annotations\.xml, frame 0: frame_000000\.png\)"):
        converted(tmp_path / "set", tmp_path / "out2", "cvat")


def test_what_is_no_annotation_of_cvat_is_refused_with_the_way_out(tmp_path):
    write(tmp_path / "a" / "a.xml", "<annotation/>")
    with pytest.raises(DataError, match="--from voc"):
        converted(tmp_path / "a", tmp_path / "out", "cvat")
    write(tmp_path / "b" / "a.xml", xml())
    with pytest.raises(DataError, match="no <image> and no <track>"):
        converted(tmp_path / "b", tmp_path / "out", "cvat")
