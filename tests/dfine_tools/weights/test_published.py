"""Published files: which model they are of, how their classes carry over, and how they come here whole."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch

from data_tools.download.file import DownloadError
from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.model.weights import WeightsError, load_weights
from dfine_tools.weights import published
from dfine_tools.weights.categories import COCO, OBJECTS365, OBJECTS365_OF_COCO
from dfine_tools.weights.conversion import convert_weights
from dfine_tools.weights.published import PUBLISHED, described, fetch
from dfine_tools.weights.sources import read

CONTENT = bytes(range(256)) * 20_000  # 5 MB
FILE = PUBLISHED["dfine_n_coco"]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; closes the connection after `cut` bytes as often as `cuts` says; counts what was asked."""

    cuts, cut, ranges, asked, gone = 0, 2_000_000, True, [], False

    def do_GET(self):
        type(self).asked.append(self.headers.get("Range"))
        if self.gone or not self.path.endswith(FILE):
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and self.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if type(self).cuts:
            type(self).cuts -= 1
            body = body[: self.cut]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DFINE_HOME", str(tmp_path / "home"))
    handler = type("Handler", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("DFINE_MIRROR", handler.address)
        yield handler
        running.shutdown()


# ---- download --------------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(server):
    file = fetch("dfine_n_coco", progress=False)
    assert file.read_bytes() == CONTENT and file == published.home() / FILE
    assert fetch("dfine_n_coco", progress=False) == file
    assert len(server.asked) == 1


def test_a_cut_download_goes_on_where_it_stopped(server):
    server.cuts = 2
    assert fetch("dfine_n_coco", progress=False).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=2000000-", "bytes=4000000-"]


def test_a_server_without_ranges_starts_again(server):
    server.cuts, server.ranges = 1, False
    assert fetch("dfine_n_coco", progress=False).read_bytes() == CONTENT


def test_a_part_left_by_a_killed_process_is_used(server):
    published.home().mkdir(parents=True)
    (published.home() / f".{FILE}.part").write_bytes(CONTENT[:3_000_000])
    assert fetch("dfine_n_coco", progress=False).read_bytes() == CONTENT
    assert server.asked == ["bytes=3000000-"]


def test_a_part_that_is_whole_already_is_taken(server):
    published.home().mkdir(parents=True)
    (published.home() / f".{FILE}.part").write_bytes(CONTENT)
    assert fetch("dfine_n_coco", progress=False).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server):
    with pytest.raises(DownloadError, match="checksum"):
        fetch("dfine_n_coco", sha256="0" * 64, progress=False)
    assert not list(published.home().glob("*.pth")) and not list(published.home().glob(".*.part"))
    right = hashlib.sha256(CONTENT).hexdigest()
    assert fetch("dfine_n_coco", sha256=right, progress=False).exists()


def test_a_file_that_is_not_there_is_told_with_address_and_folder(server, tmp_path):
    server.gone = True
    with pytest.raises(DownloadError) as error:
        fetch("dfine_n_coco", progress=False)
    for part in ("404", f"{server.address}/{FILE}", str(tmp_path / "home"), "DFINE_HOME"):
        assert part in str(error.value)


def test_no_network_is_told_and_a_file_put_there_by_hand_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("DFINE_HOME", str(tmp_path))
    monkeypatch.setenv("DFINE_MIRROR", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DownloadError, match="Without a network"):
        read("dfine_n_coco")
    torch.save({"model": DFINE.from_recipe("n_coco").state_dict()}, tmp_path / FILE)
    assert DFINE.from_pretrained("dfine_n_coco").config == SIZES["n"]


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="dfine_x_obj2coco"):
        fetch("dfine_q_coco")


def test_two_processes_at_once_do_not_spoil_the_file(server):
    command = [sys.executable, "-c", "from dfine_tools.weights.published import fetch; fetch('dfine_n_coco')"]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert (published.home() / FILE).read_bytes() == CONTENT
    assert len(server.asked) == 1


# ---- what they hold --------------------------------------------------------------------------------------------------


def test_the_size_is_told_from_the_shapes():
    for size, config in SIZES.items():
        config = replace(config, num_classes=7)
        assert described(DFINE(config).state_dict()) == config, size
    other = DFINE(replace(SIZES["pico"], hidden_dim=32, encoder_dim=32)).state_dict()
    assert described(other) is None


def test_an_authors_full_checkpoint_opens_by_itself(tmp_path):
    torch.manual_seed(0)
    averaged, raw = DFINE.from_recipe("n_coco"), DFINE.from_recipe("n_coco")
    content = {
        "last_epoch": 3, "model": raw.state_dict(), "optimizer": {"state": {}, "param_groups": []},
        "ema": {"module": averaged.state_dict(), "updates": 10}, "lr_scheduler": {},
    }  # fmt: skip
    torch.save(content, tmp_path / "dfine_n_coco.pth")
    model = DFINE.from_pretrained(tmp_path / "dfine_n_coco.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), averaged.state_dict().values()))
    stored = read(tmp_path / "dfine_n_coco.pth")
    assert stored.category_names == COCO
    ids = dict(zip(stored.category_names, stored.category_ids, strict=True))  # COCO's own, which have gaps
    assert (ids["person"], ids["stop sign"], ids["tv"], ids["toothbrush"]) == (1, 13, 72, 90)
    converted = convert_weights(tmp_path / "dfine_n_coco.pth", tmp_path / "own.safetensors")
    assert read(converted).category_ids == stored.category_ids


def test_rows_of_objects365_are_its_ids_and_go_to_coco_by_the_authors_table(tmp_path):
    source = DFINE.from_recipe("n_coco", num_classes=366)
    torch.save({"model": source.state_dict()}, tmp_path / "dfine_n_obj365.pth")
    weights = read(tmp_path / "dfine_n_obj365.pth")
    assert weights.category_names == OBJECTS365 and weights.category_ids == tuple(range(1, 366))
    model = DFINE.from_recipe("n_coco")
    rows = load_weights(model, weights, COCO)["rows"]
    assert rows["person"] == "Person" and rows["bowl"] == "Bowl/Basin"
    own, stored = model.decoder.enc_score_head.weight, source.decoder.enc_score_head.weight
    for label, place in enumerate(OBJECTS365_OF_COCO):
        assert torch.equal(own[label], stored[place + 1])
    same = DFINE.from_recipe("n_coco", num_classes=365)
    assert load_weights(same, weights, OBJECTS365) == {}
    assert torch.equal(same.decoder.enc_score_head.weight, stored[1:])
    embedding = source.decoder.denoising_class_embed.weight
    assert torch.equal(same.decoder.denoising_class_embed.weight, embedding[1:])  # its last row is for padding


def test_classes_of_other_names_are_carried_over_by_a_map(tmp_path):
    source = DFINE.from_recipe("n_coco")
    torch.save({"model": source.state_dict()}, tmp_path / "dfine_n_coco.pth")
    weights, model = read(tmp_path / "dfine_n_coco.pth"), DFINE.from_recipe("n_coco", num_classes=3)
    rows = load_weights(model, weights, ("taxi", "person", "tree"), rows={"taxi": "car"})["rows"]
    assert rows == {"taxi": "car", "person": "person", "tree": None}
    assert torch.equal(model.decoder.enc_score_head.bias[0], source.decoder.enc_score_head.bias[2])
    with pytest.raises(WeightsError, match="the file has no class 'cab'"):
        load_weights(model, weights, ("taxi", "person", "tree"), rows={"taxi": "cab"})
    with pytest.raises(WeightsError, match="the model has no class 'bus'"):
        load_weights(model, weights, ("taxi", "person", "tree"), rows={"bus": "car"})


def test_a_backbone_alone_fills_the_backbone(tmp_path):
    source, model = DFINE.from_recipe("l_coco"), DFINE.from_recipe("l_coco", num_classes=5)
    head = {"fc.weight": torch.zeros(1000, 2048), "last_conv.weight": torch.zeros(2048, 2048, 1, 1)}
    torch.save(source.backbone.state_dict() | head, tmp_path / "PPHGNetV2_B4_stage1.pth")
    weights, before = (
        read(tmp_path / "PPHGNetV2_B4_stage1.pth"),
        model.encoder.input_proj[0].conv.weight.clone(),
    )
    assert "backbone" in load_weights(model, weights, ("a", "b", "c", "d", "e"))
    assert torch.equal(model.backbone.stem.stem1.conv.weight, source.backbone.stem.stem1.conv.weight)
    assert torch.equal(model.encoder.input_proj[0].conv.weight, before)
    with pytest.raises(WeightsError, match="another backbone than this model's B0"):
        load_weights(DFINE.from_recipe("n_coco"), weights)
