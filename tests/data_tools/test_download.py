"""Data sets are fetched once, whole and checked, whatever the line does; archives cannot reach out of their folder."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import random
import re
import resource
import stat
import tarfile
import threading
import zipfile

import pytest

from data_tools.download import archives as archives_module
from data_tools.download import fetch_data_set, known_sets
from data_tools.download.archives import unpack
from data_tools.download.data_set import ADDRESSES
from data_tools.download.file import DownloadError
from dfine_lib.data.coco import find_split
from dfine_lib.data.images import DataError
from dfine_tools.cli import main

PICTURE = random.Random(0).randbytes(100_000)


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members, compression="gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:
        for name, content in members.items():
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


FILES = {
    "train.zip": zipped({"train2017/a.jpg": PICTURE, "train2017/sub/b.jpg": b"b"}),
    "val.tar.gz": tarred({"val2017/c.jpg": b"c"}),
    "notes.zip": zipped({"annotations/instances_val2017.json": b"{}", "annotations/captions_val2017.json": b"{}",
                         "annotations/instances_train2017.json": b"{}"}),
    "plain.json": b'{"a": 1}',
}  # fmt: skip


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; closes the connection after `cut` bytes as often as `cuts` says; notes what was asked."""

    def do_GET(self):
        name = self.path.strip("/")
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        type(self).asked.append((name, begin))
        if name not in self.files:
            self.send_error(404)
            return
        body = self.files[name][begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).cuts and len(body) > self.cut:
            type(self).cuts -= 1
            body = body[: self.cut]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    handler = type("Handler", (Server,), {"asked": [], "cuts": 0, "cut": 1000, "files": dict(FILES)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        handler.address = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


def addresses(tmp_path, address, **changes):
    """A file of addresses that leads to the server."""
    entry = {
        "title": "Small", "home": "https://nowhere.invalid", "terms": "Be kind.", "gigabytes": 0.001,
        "unpacked_gigabytes": 0.001, "next": "dfine doctor OUT",
        "files": [
            {"split": "train", "name": "train.zip", "address": f"{address}/train.zip", "to": ".",
             "checksum": "sha1:" + hashlib.sha1(FILES["train.zip"]).hexdigest()},
            {"split": "val", "name": "val.tar.gz", "address": f"{address}/val.tar.gz", "to": "."},
            {"split": "val", "name": "plain.json", "address": f"{address}/plain.json", "to": "val"},
            {"split": "both", "name": "notes.zip", "address": f"{address}/notes.zip", "to": ".",
             "only": "annotations/instances_*"},
        ],
    }  # fmt: skip
    file = tmp_path / "addresses.json"
    file.write_text(json.dumps({"small": entry | changes}))
    return file


def small(tmp_path, address, **changes):
    return known_sets(addresses(tmp_path, address, **changes))["small"]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = ["annotations/instances_train2017.json", "annotations/instances_val2017.json", "download.json",
         "train2017/a.jpg", "train2017/sub/b.jpg", "val/plain.json", "val2017/c.jpg"]  # fmt: skip


# ---- fetching --------------------------------------------------------------------------------------------------------


def test_a_set_is_fetched_unpacked_and_laid_out(server, tmp_path):
    result = fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)
    assert tree(tmp_path / "out") == WHOLE
    assert (tmp_path / "out/train2017/a.jpg").read_bytes() == PICTURE
    assert (result.files, result.there, result.unpacked) == (4, 0, 6)
    assert find_split(tmp_path / "out", "train")[1].name == "train2017"
    again = fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)
    assert (again.files, again.there) == (0, 4) and len(server.asked) == 4


def test_a_split_comes_alone_and_the_other_later(server, tmp_path):
    fetch_data_set(small(tmp_path, server.address), tmp_path / "out", splits=("val",), progress=False)
    assert [name for name in tree(tmp_path / "out") if "train" in name] == ["annotations/instances_train2017.json"]
    assert fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False).files == 1
    assert tree(tmp_path / "out") == WHOLE
    with pytest.raises(DataError, match="no split 'test'"):
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", splits=("test",), progress=False)


def test_a_download_cut_in_the_middle_goes_on_at_the_next_byte(server, tmp_path):
    server.cuts = 2
    only = [{"split": "train", "name": "train.zip", "address": f"{server.address}/train.zip", "to": "."}]
    fetch_data_set(small(tmp_path, server.address, files=only), tmp_path / "out", splits=("train",), progress=False)
    assert server.asked == [("train.zip", 0), ("train.zip", 1000), ("train.zip", 2000)]
    assert (tmp_path / "out/train2017/a.jpg").read_bytes() == PICTURE


def test_a_run_that_was_killed_goes_on(server, tmp_path):
    store = tmp_path / "out/.download/train"
    store.mkdir(parents=True)
    (store / ".train.zip.part").write_bytes(FILES["train.zip"][:1234])
    (tmp_path / "out/.train.zip.unpacked").mkdir()
    (tmp_path / "out/.train.zip.unpacked/half.jpg").write_bytes(b"half")
    fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)
    assert ("train.zip", 1234) in server.asked and tree(tmp_path / "out") == WHOLE
    assert not (tmp_path / "out/.train.zip.unpacked").exists()


def test_a_wrong_checksum_is_refused_and_not_unpacked(server, tmp_path):
    server.files["train.zip"] = zipped({"train2017/other.jpg": b"x"})
    with pytest.raises(DownloadError, match="sha1 checksum") as caught:
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)
    assert "--from" in str(caught.value)
    assert not (tmp_path / "out/train2017").exists() and not list((tmp_path / "out").rglob("*train.zip*part"))


def test_no_such_file_and_no_network_are_told_with_address_and_way_out(server, tmp_path):
    del server.files["val.tar.gz"]
    with pytest.raises(DownloadError, match=f"404.*fetch {server.address}/val.tar.gz elsewhere.*--from"):
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)
    with pytest.raises(DownloadError, match=r"could not be downloaded from http://127\.0\.0\.1:9/"):
        fetch_data_set(small(tmp_path, "http://127.0.0.1:9"), tmp_path / "other", progress=False)


def test_a_damaged_archive_is_told_and_fetched_again(server, tmp_path):
    server.files["val.tar.gz"] = FILES["val.tar.gz"][:50]
    with pytest.raises(DataError, match=r"val\.tar\.gz: cannot be unpacked"):
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", splits=("val",), progress=False)
    server.files["val.tar.gz"] = FILES["val.tar.gz"]
    fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)
    assert tree(tmp_path / "out") == WHOLE


def test_what_zip_cannot_open_here_is_told_apart_from_damage(tmp_path):
    """A password (bit 0 of a member's flags), a way to compress (method 9), and bytes that are not what was packed."""
    for method, name, place, value, told in (
        (zipfile.ZIP_STORED, "locked", 8, 1, "'a.txt' is encrypted.*pack it again without"),
        (zipfile.ZIP_STORED, "deflate64", 10, 9, "whole, but of a kind .*zipfile cannot read"),
        (zipfile.ZIP_STORED, "newer", 6, 99, "whole, but of a kind .*zipfile cannot read"),
        (zipfile.ZIP_LZMA, "lzma", None, None, "it is damaged"),
        (zipfile.ZIP_BZIP2, "bzip2", None, None, "it is damaged"),
    ):
        file = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(file, "w", method) as out:
            out.writestr("a.txt", b"text " * 99)
        content = bytearray(file.read_bytes())
        if place is None:
            content[50:60] = b"\xff" * 10
        else:  # the same field in the member's own header and, two bytes further on, in the directory
            content[place - 2], content[content.index(b"PK\x01\x02") + place] = value, value
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.zip: .*{told}"):
            unpack(file, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_three_bytes_changed_in_a_compressed_tar_are_damage(tmp_path, compression):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=f"w:{compression}") as out:
        member = tarfile.TarInfo("picture.jpg")
        member.size = len(PICTURE)
        out.addfile(member, io.BytesIO(PICTURE))
    file, content = tmp_path / "a.tar.gz", bytearray(whole.getvalue())
    file.write_bytes(content)
    assert unpack(file, tmp_path / "out") == 1 and (tmp_path / "out" / "picture.jpg").read_bytes() == PICTURE
    content[50_000:50_003] = bytes(255 - byte for byte in content[50_000:50_003])
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be unpacked .*it is damaged"):
        unpack(file, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


# ---- from a folder ---------------------------------------------------------------------------------------------------


def given(tmp_path, files=FILES):
    folder = tmp_path / "given"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_files_that_were_fetched_already_are_taken_and_left_alone(server, tmp_path):
    folder = given(tmp_path)
    fetch_data_set(small(tmp_path, server.address), tmp_path / "out", archives=folder, progress=False)
    assert tree(tmp_path / "out") == WHOLE and server.asked == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_missing_and_wrong_files_of_a_folder_are_named_with_their_addresses(server, tmp_path):
    folder = given(tmp_path, {"train.zip": b"other", "plain.json": b"{}", "notes.zip": FILES["notes.zip"]})
    with pytest.raises(
        DataError, match=f"lacks 1 of 4 files; put there:\n  val.tar.gz from {server.address}/val.tar.gz"
    ):
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", archives=folder, progress=False)
    (folder / "val.tar.gz").write_bytes(FILES["val.tar.gz"])
    with pytest.raises(DataError, match=r"train\.zip: its sha1 checksum"):
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", archives=folder, progress=False)
    assert server.asked == []


def test_files_of_one_name_are_told_apart_by_their_split(tmp_path):
    sets = known_sets()
    (tmp_path / "given").mkdir()
    with pytest.raises(DataError, match=r"\n  val/patch0\.tar\.gz from https://dorc\S+/val/images/v1/patch0\.tar\.gz"):
        fetch_data_set(sets["objects365"], tmp_path / "out", splits=("val",), archives=tmp_path / "given")
    with pytest.raises(DataError, match=r"\n  CrowdHuman_val\.zip from https://drive\.google\.com"):
        fetch_data_set(sets["crowdhuman"], tmp_path / "out", archives=tmp_path / "given")


# ---- archives --------------------------------------------------------------------------------------------------------


def link_in_zip(target):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo("a/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, target)
    return file.getvalue()


def special_in_tar(kind, target=""):
    entry = tarfile.TarInfo("a/link")
    entry.type, entry.linkname = kind, target
    return tarred({"a/good.jpg": b"good", entry: b"", "a/link/x.jpg": b"out"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", zipped({"good.jpg": b"1", "../evil.jpg": b"2"}), "leaves the data folder"),
        ("a.zip", zipped({"/tmp/dfine_evil.jpg": b"2"}), "leaves the data folder"),
        ("a.zip", zipped({"a\\..\\..\\evil.jpg": b"2"}), "leaves the data folder"),
        ("a.zip", zipped({"C:/evil.jpg": b"2"}), "leaves the data folder"),
        ("a.zip", link_in_zip("/etc/passwd"), "link or a device"),
        ("a.zip", zipped({"bomb": bytes(3_000_000)}), "100 times its size"),
        ("a.zip", b"no zip at all", "cannot be unpacked"),
        ("a.tar.gz", tarred({"good.jpg": b"1", "../evil.jpg": b"2"}), "leaves the data folder"),
        ("a.tar.gz", tarred({"/tmp/dfine_evil.jpg": b"2"}), "leaves the data folder"),
        ("a.tar.gz", special_in_tar(tarfile.SYMTYPE, ".."), "link or a device"),
        ("a.tar.gz", special_in_tar(tarfile.LNKTYPE, "/etc/passwd"), "link or a device"),
        ("a.tar.gz", special_in_tar(tarfile.FIFOTYPE), "link or a device"),
        ("a.tar.gz", tarred({"bomb": bytes(3_000_000)}), "100 times its size"),
        ("a.tar", b"no tar at all", "cannot be unpacked"),
        ("a.tar.gz", tarred({"a": b"1", "a/b": b"2"}), "member 'a/b' is a file and a folder at once"),
        ("a.tar.gz", tarred({"a/b": b"1", "a": b"2"}), "member 'a' is a file and a folder at once"),
        ("a.tar.gz", tarred({"a": b"1", "a/b/c": b"2"}), "member 'a/b/c' is a file and a folder at once"),
    ],
)
def test_an_archive_that_means_harm_leaves_nothing(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setattr(archives_module, "MOST_BESIDES", 1000)
    archive = tmp_path / "in" / name
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        unpack(archive, tmp_path / "deep/out", progress=False)
    assert name in str(caught.value) and len(str(caught.value)) < 500
    assert tree(tmp_path) == [f"in/{name}"] and archive.read_bytes() == content


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_a_tar_whose_headers_fill_the_memory_is_refused(tmp_path, kind):
    entry = tarfile.TarInfo("long")
    entry.type, entry.size = kind, 2 << 20
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(entry.tobuf() + b"a" * entry.size))
    with pytest.raises(DataError, match=r"a header of 2,097,152 bytes|a file with holes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("note", [b"", b"[]", b'{"set": "small"}', b"[" * 100_000, b"\xff"])
def test_a_damaged_note_of_an_earlier_download_is_told(server, tmp_path, note):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "download.json").write_bytes(note)
    with pytest.raises(DataError, match=r"download\.json"):
        fetch_data_set(small(tmp_path, server.address), tmp_path / "out", progress=False)


def test_an_archive_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives_module, "MOST_FILES", 3)
    (tmp_path / "a.zip").write_bytes(zipped({f"{i}.jpg": b"" for i in range(4)}))
    with pytest.raises(DataError, match="more than 3 files"):
        unpack(tmp_path / "a.zip", tmp_path / "out", progress=False)
    assert tree(tmp_path) == ["a.zip"]


def test_an_archive_without_what_is_wanted_is_told(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"readme": b""}))
    with pytest.raises(DataError, match="holds no file that fits 'x/"):
        unpack(tmp_path / "a.zip", tmp_path / "out", only="x/*", progress=False)


# ---- the file of addresses, and the command --------------------------------------------------------------------------


def test_the_official_addresses_are_complete():
    sets = known_sets()
    assert list(sets) == ["coco", "objects365", "crowdhuman"]
    assert {name: len(data_set.files) for name, data_set in sets.items()} == {
        "coco": 3, "objects365": 1 + 51 + 1 + 44, "crowdhuman": 6,
    }  # fmt: skip
    for data_set in sets.values():
        keys = [file.key for file in data_set.files]
        assert len(set(keys)) == len(keys) and data_set.terms and "OUT" in data_set.next
    assert all(file.checksum for file in sets["coco"].files)
    train = {file.name: file.to for file in sets["objects365"].of_splits(("train",))}
    assert (train["patch15.tar.gz"], train["patch16.tar.gz"]) == ("train/images/v1", "train/images/v2")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"split": "val", "name": "../a", "address": "https://x", "to": "."}, "leaves the data folder"),
        ({"split": "val", "name": "a", "address": "https://x", "to": "/etc"}, "leaves the data folder"),
        ({"split": "val", "name": "a", "address": "file:///etc/passwd", "to": "."}, "begins with https"),
        ({"split": "val", "name": "a", "to": "."}, r"'small', files\[0\]: no key 'address'; expected a text, as in "),
        ({"split": "val", "name": "a", "address": 1, "to": "."}, "'address' is 1; expected a text"),
        ({"split": "val", "name": "a", "address": "https://x", "to": ".", "sha": "1"}, "unknown key 'sha'; known are"),
        ({"split": "val", "name": "a", "address": "https://x", "to": ".", "numbers": [3]}, r"'numbers' is \[3\]"),
    ],
)
def test_a_file_of_addresses_that_means_harm_is_refused(tmp_path, record, message):
    with pytest.raises(DataError, match=message):
        small(tmp_path, "", files=[record])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"mine\.json: holds no data set; expected \{NAME: \{title, .*, files\}\}, as in .*addresses\.json"),
        ("[]", r"mine\.json: holds no data set"),
        ('{"mini": {}}', r"mine\.json, 'mini': no key 'title'; expected a text, as in .*addresses\.json"),
        ('{"mini": 3}', r"mine\.json, 'mini': expected an object with title, "),
    ],
)
def test_a_file_of_addresses_without_what_is_needed_names_the_key(tmp_path, capsys, text, message):
    (tmp_path / "mine.json").write_text(text)
    words = ["data", "download", "mini", str(tmp_path / "out"), "--addresses", str(tmp_path / "mine.json")]
    assert main(words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_says_size_and_terms_first_and_fails_with_2(server, tmp_path, capsys):
    file = addresses(tmp_path, server.address)
    words = ["data", "download", "small", str(tmp_path / "out"), "--addresses", str(file)]
    assert main([*words, "--list"]) == 0
    told = capsys.readouterr().out
    assert "0.001 GB" in told and "Be kind." in told and f"train/train.zip  {server.address}/train.zip" in told
    assert server.asked == [] and not (tmp_path / "out").exists()
    assert main(words) == 0
    assert f"4 files fetched, 6 files unpacked in {tmp_path / 'out'}; next: dfine doctor" in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    assert main([*words[:3], str(tmp_path / "full"), *words[4:]]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["data", "download", "imagenet", "x"]) == 2
    assert "coco, objects365, crowdhuman" in capsys.readouterr().err
    assert main(["data", "download", "--help"]) == 0
    assert "example: dfine data download coco" in capsys.readouterr().out
    assert ADDRESSES.name == "addresses.json"


def test_a_full_disk_is_told_by_the_name_of_the_folder_and_the_same_command_goes_on(server, tmp_path):
    """No file may grow beyond 10 bytes, which fails as a full disk does."""
    folder, data_set = given(tmp_path), small(tmp_path, server.address)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="what is done is kept, and the same command resumes") as error:
            fetch_data_set(data_set, tmp_path / "out", archives=folder, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "out")
    fetch_data_set(data_set, tmp_path / "out", archives=folder, progress=False)
    assert tree(tmp_path / "out") == WHOLE
