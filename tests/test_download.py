"""Checks datasets/download.py: that files arrive whole from servers that misbehave in every way,
that nothing a user has is lost, that hostile archives are refused, and that a run which is killed
at a bad moment is followed by one that completes.
"""

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
from misbehaving_server import (
    announces,
    answers_another_range,
    claims_to_pack,
    closes_after,
    closes_after_without_range,
    hangs_after,
    honest,
    ignores_range,
    lies_about_range,
    names_no_range,
    packs,
    packs_when_allowed,
    redirects,
    refuses_range,
    resets_after,
    running_server,
    sends_a_page,
    sends_without_end,
    sends_without_length,
    slow,
    status,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import download as module  # noqa: E402
from datasets.download import DataError, RemoteFile, download, extract, verify  # noqa: E402

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
GOOD = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BACK_OFF", 0.01)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EXAMPLES_MIRROR", raising=False)


@pytest.fixture
def server():
    with running_server() as server:
        yield server


def remote(*urls, **known):
    return RemoteFile("set/file.bin", urls, **(known or GOOD))


def lay(folder, content, name="file.bin"):
    path = folder / "set" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def assert_downloaded(path, folder):
    assert path == folder / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert not (folder / "set" / "file.bin.part").exists()


def error_of(call, *args):
    with pytest.raises(DataError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unused_url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/file.bin"


# --- Servers --------------------------------------------------------------------------------------


def test_downloads_once_and_then_needs_no_server(server, tmp_path):
    url = server.add("/file.bin", CONTENT)
    for _ in range(2):
        assert_downloaded(download(remote(url), tmp_path), tmp_path)
    assert server.starts("/file.bin") == [0]


@pytest.mark.parametrize(
    "known",
    [
        {"sha256": GOOD["sha256"].upper()},
        {"md5": hashlib.md5(CONTENT).hexdigest()},
        {"size": len(CONTENT)},
        {"path": "set/file.bin"},
    ],
    ids=["sha256", "md5", "size", "nothing"],
)
@pytest.mark.parametrize("behaviour", [honest, sends_without_length, closes_after(120_000)])
def test_downloads_with_what_is_known(server, tmp_path, known, behaviour):
    url = server.add("/file.bin", CONTENT, behaviour, honest)
    path = download(RemoteFile(**{"path": "set/file.bin", "urls": (url,), **known}), tmp_path)
    assert_downloaded(path, tmp_path)


@pytest.mark.parametrize(
    "behaviours",
    [
        [status(503), status(500), honest],
        [status(429), honest],
        [closes_after(100_000), honest],
        [closes_after(0), closes_after(10), honest],
        [resets_after(100_000), resets_after(50_000), honest],
        [closes_after(100_000), ignores_range],
        [closes_after(100_000), refuses_range],
        [closes_after(100_000), answers_another_range],
        [closes_after(100_000), lies_about_range, honest],
        [closes_after(100_000), names_no_range],
        [announces("9" * 5000)],
    ],
)
def test_one_mirror_is_asked_again(server, tmp_path, behaviours):
    url = server.add("/file.bin", CONTENT, *behaviours)
    assert_downloaded(download(remote(url), tmp_path), tmp_path)


def test_a_broken_download_is_resumed_not_repeated(server, tmp_path):
    url = server.add("/file.bin", CONTENT, closes_after(100_000), closes_after(50_000), honest)
    download(remote(url), tmp_path)
    assert server.starts("/file.bin") == [0, 100_000, 150_000]


@pytest.mark.parametrize(
    ("behaviour", "content", "reason"),
    [
        (status(404), CONTENT, "404 Not Found"),
        (status(403), CONTENT, "403 Forbidden"),
        (honest, OTHER, "sent other bytes than were published"),
        (honest, CONTENT + b"!", "offers 300001 bytes, 300000 were published"),
        (honest, CONTENT[:-1], "offers 299999 bytes, 300000 were published"),
        (packs, CONTENT, "were published"),
        (sends_a_page, CONTENT, "sent a web page instead of the file"),
        (sends_without_end, CONTENT, "sent other bytes than were published"),
        (redirects("http://[nowhere"), CONTENT, ""),
        (redirects("http://host:port/"), CONTENT, ""),
        (redirects("http://.nowhere/"), CONTENT, ""),
        (redirects("gopher://nowhere"), CONTENT, "No connection adapters"),
    ],
)
def test_a_useless_mirror_is_asked_once_and_left(
    server, tmp_path, behaviour, content, reason, capsys
):
    bad = server.add("/bad", content, behaviour)
    good = server.add("/good", CONTENT)
    assert_downloaded(download(remote(bad, good), tmp_path), tmp_path)
    assert server.starts("/bad") == [0]
    assert server.starts("/good") == [0]  # nothing of the bad one is continued
    assert f"{bad}: " in capsys.readouterr().err
    (tmp_path / "set" / "file.bin").unlink()
    assert reason in error_of(download, remote(bad), tmp_path)


@pytest.mark.parametrize(
    "behaviour", [status(503), closes_after_without_range(200_000), resets_after(0)]
)
def test_a_mirror_that_stays_broken_is_left(server, tmp_path, monkeypatch, behaviour):
    monkeypatch.setattr(module, "PROGRESS", 20_000)  # the same bytes again are no progress
    url = server.add("/bad", CONTENT, *[behaviour] * 10, honest)
    error_of(download, remote(url), tmp_path)
    assert len(server.requests) == module.ATTEMPTS


def test_progress_costs_no_attempts(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS", 20_000)
    url = server.add("/file.bin", CONTENT, closes_after(25_000))
    assert_downloaded(download(remote(url), tmp_path), tmp_path)
    assert len(server.requests) == 12


def test_another_mirror_resumes(server, tmp_path):
    first = server.add("/first", CONTENT, closes_after(100_000), status(404))
    second = server.add("/second", CONTENT)
    assert_downloaded(download(remote(first, second), tmp_path), tmp_path)
    assert server.starts("/second") == [100_000]


@pytest.mark.parametrize("known", ["sha256", "md5"])
def test_wrong_bytes_do_not_poison_the_next_mirror(server, tmp_path, known):
    known = {known: hashlib.new(known, CONTENT).hexdigest(), "size": len(CONTENT)}
    bad = server.add("/bad", OTHER, closes_after(100_000), status(404))
    good = server.add("/good", CONTENT)
    assert_downloaded(download(remote(bad, good, **known), tmp_path), tmp_path)
    assert server.starts("/good") == [100_000, 0]


def test_a_whole_wrong_file_of_unknown_size_is_not_continued(server, tmp_path):
    bad = server.add("/bad", OTHER[:1000])
    good = server.add("/good", CONTENT)
    known = {"sha256": GOOD["sha256"]}
    assert_downloaded(download(remote(bad, good, **known), tmp_path), tmp_path)
    assert server.starts("/good") == [0]


def test_no_content_encoding_is_asked_for(server, tmp_path):
    url = server.add("/file.bin", CONTENT, packs_when_allowed)
    assert_downloaded(download(remote(url), tmp_path), tmp_path)


def test_content_encoding_is_not_undone(server, tmp_path):
    packed = gzip.compress(CONTENT)
    url = server.add("/file.gz", packed, claims_to_pack)
    known = {"sha256": hashlib.sha256(packed).hexdigest()}
    assert download(remote(url, **known), tmp_path).read_bytes() == packed


def test_a_silent_server_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_TIMEOUT", 0.2)
    silent = server.add("/silent", CONTENT, hangs_after(70_000))
    good = server.add("/good", CONTENT)
    assert_downloaded(download(remote(silent, good), tmp_path), tmp_path)
    assert server.starts("/good")[0] > 0


def test_a_slow_mirror_is_left_keeping_what_it_sent(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SLOW_WINDOW", 0.2)
    tardy = server.add("/tardy", CONTENT, slow(20_000))
    good = server.add("/good", CONTENT)
    assert_downloaded(download(remote(tardy, good), tmp_path), tmp_path)
    assert 0 < server.starts("/good")[0] < 100_000
    assert "sends only" in capsys.readouterr().err


def test_the_fastest_slow_mirror_is_used_when_all_others_fail(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLOW_WINDOW", 0.2)
    monkeypatch.setattr(module, "MIN_SPEED", 50_000_000)
    slowest = server.add("/slowest", CONTENT, slow(10_000))
    faster = server.add("/faster", CONTENT, slow(500_000))
    missing = server.add("/missing", CONTENT, status(404))
    assert_downloaded(download(remote(slowest, faster, missing), tmp_path), tmp_path)
    assert [path for path, _ in server.requests] == ["/slowest", "/faster", "/missing", "/faster"]
    starts = [start for _, start in server.requests]
    assert starts == sorted(starts) and starts[-1] > 0  # each goes on where the last one stopped


# --- What lies there already ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "starts"),
    [
        (CONTENT[:1000], [1000]),
        (CONTENT, []),
        (OTHER[:1000], [1000, 0]),
        (OTHER, [0]),
        (CONTENT + b"longer", [0]),
        (b"", [0]),
    ],
    ids=["beginning", "whole", "wrong beginning", "wrong", "too long", "empty"],
)
def test_a_partial_file_from_an_earlier_run(server, tmp_path, part, starts):
    lay(tmp_path, part, "file.bin.part")
    url = server.add("/file.bin", CONTENT)
    assert_downloaded(download(remote(url), tmp_path), tmp_path)
    assert server.starts("/file.bin") == starts


def test_a_useless_answer_leaves_the_partial_file_alone(server, tmp_path):
    part = lay(tmp_path, CONTENT[:1000], "file.bin.part")
    urls = [
        server.add("/missing", CONTENT, status(404)),
        server.add("/longer", CONTENT + b"!", ignores_range),
        server.add("/page", CONTENT, sends_a_page),
        unused_url(),
    ]
    error_of(download, remote(*urls), tmp_path)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_file_put_there_by_hand_is_used_and_its_check_remembered(tmp_path, monkeypatch):
    path = lay(tmp_path, CONTENT)
    assert download(remote(), tmp_path) == path
    with monkeypatch.context() as patch:
        patch.setattr(module, "_hash_file", None)  # a second check of the contents would fail
        assert download(remote(), tmp_path) == path
    path.write_bytes(OTHER)
    os.utime(path, ns=(0, 0))
    assert "sha256" in error_of(download, remote(), tmp_path)


def test_a_damaged_note_of_a_check_is_ignored(tmp_path):
    path = lay(tmp_path, OTHER)
    (path.parent / "file.bin.verified").write_bytes(b"\xff\x00 nonsense")
    error_of(verify, path, remote())


@pytest.mark.parametrize("content", [OTHER, b"short", b""])
def test_a_wrong_file_put_there_by_hand_is_reported_and_kept(server, tmp_path, content):
    path = lay(tmp_path, content)
    message = error_of(download, remote(server.add("/file.bin", CONTENT)), tmp_path)
    assert "is not the published file" in message and "move it away" in message
    assert str(path) in message
    expected, found = (
        (GOOD["sha256"], hashlib.sha256(OTHER).hexdigest())
        if content == OTHER
        else ("expected 300000", f"found {len(content)}")
    )
    assert expected in message and found in message
    assert path.read_bytes() == content
    assert server.requests == []


def test_a_file_put_there_during_the_download_is_not_overwritten(server, tmp_path):
    def meanwhile(request, content):
        lay(tmp_path, b"precious")
        honest(request, content)

    url = server.add("/file.bin", CONTENT, meanwhile)
    error_of(download, remote(url), tmp_path)
    assert (tmp_path / "set" / "file.bin").read_bytes() == b"precious"


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    assert "is missing" in error_of(verify, tmp_path / "absent", remote())
    (tmp_path / "set" / "file.bin").mkdir(parents=True)
    assert "not a file" in error_of(download, remote(), tmp_path)


# --- Nothing can be reached -----------------------------------------------------------------------


def test_the_error_says_what_was_wanted_what_was_tried_and_what_to_do(
    server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    missing, closed = server.add("/missing", CONTENT, status(404)), unused_url()
    message = error_of(download, remote(missing, closed), Path("data"))
    assert "cannot download set/file.bin" in message
    assert f"{missing} (404 Not Found)" in message
    assert f"{closed} ({os.strerror(errno.ECONNREFUSED)})" in message
    assert f"put the file at {tmp_path / 'data' / 'set' / 'file.bin'} by hand" in message
    assert "--data sample" in message
    assert len(message) < 500


def test_a_file_that_nobody_serves(tmp_path):
    assert "no address is known" in error_of(download, remote(), tmp_path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert str(tmp_path) in error_of(download, remote(), tmp_path)
    tmp_path.chmod(0o700)


def test_a_data_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    assert "cannot write" in error_of(download, remote(), tmp_path / "data")


# --- EXAMPLES_MIRROR ------------------------------------------------------------------------------


@pytest.mark.parametrize("served", ["", "set"], ids=["data folder", "beside the file"])
def test_examples_mirror_is_pythons_own_server(server, tmp_path, monkeypatch, served):
    lay(tmp_path, CONTENT)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / served)
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    url = server.add("/file.bin", CONTENT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as mirror:
        threading.Thread(target=mirror.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("EXAMPLES_MIRROR", f"http://127.0.0.1:{mirror.server_port}/")
        assert_downloaded(download(remote(url), tmp_path / "new"), tmp_path / "new")
        mirror.shutdown()
    assert server.requests == []


def test_examples_mirror_comes_before_the_others(server, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAMPLES_MIRROR", server.add("/mine", b"", status(404)))
    assert_downloaded(download(remote(server.add("/good", CONTENT)), tmp_path), tmp_path)
    assert [path for path, _ in server.requests] == [
        "/mine/set/file.bin",
        "/mine/file.bin",
        "/good",
    ]


@pytest.mark.parametrize("value", ["localhost:8000", "/a/folder", "ftp://host", "http://host:port"])
def test_examples_mirror_that_is_no_address(tmp_path, monkeypatch, value):
    monkeypatch.setenv("EXAMPLES_MIRROR", value)
    assert value in error_of(download, remote(), tmp_path)


# --- Archives -------------------------------------------------------------------------------------


def entry(name, content=b"content", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def make_tar(path, *entries, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def make_zip(path, *entries):
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            kind = {
                tarfile.SYMTYPE: stat.S_IFLNK,
                tarfile.CHRTYPE: stat.S_IFCHR,
                tarfile.REGTYPE: stat.S_IFREG,
                tarfile.DIRTYPE: stat.S_IFDIR,
            }[info.type]
            item = zipfile.ZipInfo(info.name)
            item.external_attr = (kind | 0o644) << 16
            archive.writestr(item, info.linkname or content, zipfile.ZIP_DEFLATED)
    return path


MAKERS = pytest.mark.parametrize("make", [make_tar, make_zip], ids=["tar", "zip"])


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@MAKERS
@pytest.mark.parametrize(
    ("inside", "members", "made"),
    [
        (["batches/a", "batches/b", "batches/c"], ["batches/a", "batches/b"], ["a", "b"]),
        (["./weights.ckpt", "./notes"], ["weights.ckpt"], ["weights.ckpt"]),
        (["weights.ckpt"], ["./weights.ckpt"], ["weights.ckpt"]),
        (["pets/cat/0", "pets/dog/0"], ["pets/cat/0", "pets/dog/0"], ["cat/0", "dog/0"]),
        (["top", "folder//deep"], ["top", "folder/deep"], ["top", "folder/deep"]),
    ],
)
def test_extracts_exactly_the_members(tmp_path, make, inside, members, made):
    archive = make(tmp_path / "archive", *(entry(name, name.encode()) for name in inside))
    folder = tmp_path / "new" / "out"
    assert extract(archive, folder, members, 1000) == folder
    assert contents(folder).keys() == set(made)
    assert {path.name for path in folder.parent.iterdir()} == {"out", "out.lock"}
    archive.unlink()
    assert extract(archive, folder, members, 1000) == folder  # whole: needs no archive


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_large_files_keep_their_bytes(tmp_path, mode):
    archive = make_tar(tmp_path / "a", entry("x", CONTENT), entry("y", OTHER), mode=mode)
    extract(archive, tmp_path / "out", ["x", "y"], 600_000)
    assert contents(tmp_path / "out") == {"x": CONTENT, "y": OTHER}


HOSTILE = {
    "absolute": [entry("/etc/evil")],
    "drive": [entry("C:evil")],
    "parent": [entry("../evil")],
    "deep parent": [entry("a/../../evil")],
    "backslashes": [entry("..\\evil")],
    "symlink": [entry("a", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "symlink out": [entry("a", kind=tarfile.SYMTYPE, link="../../secret")],
    "device": [entry("a", kind=tarfile.CHRTYPE)],
}


@MAKERS
@pytest.mark.parametrize("member", ["wanted", "a"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused(tmp_path, make, kind, member):
    home = tmp_path / "x" / "y"
    home.mkdir(parents=True)
    archive = make(home / "archive", entry("wanted"), *HOSTILE[kind])
    message = error_of(extract, archive, home / "out", [member], 1000)
    assert str(archive) in message and "move it away" in message
    assert contents(tmp_path) == {"x/y/archive": archive.read_bytes()}
    assert not (home / "out").exists() and not (home / "out.extracting").exists()


@MAKERS
def test_a_member_that_is_there_twice_is_refused(tmp_path, make):
    archive = make(tmp_path / "archive", entry("a"), entry("./a", b"other"))
    assert "twice" in error_of(extract, archive, tmp_path / "out", ["a"], 1000)
    assert contents(tmp_path).keys() == {"archive"}


def test_a_hard_link_out_is_refused(tmp_path):
    links = entry("a", kind=tarfile.LNKTYPE, link="../secret")
    archive = make_tar(tmp_path / "archive", links)
    (tmp_path / "secret").write_bytes(b"secret")
    error_of(extract, archive, tmp_path / "out", ["a"], 1000)
    assert not (tmp_path / "out").exists()


@MAKERS
def test_a_bomb_is_stopped_by_what_it_unpacks_to(tmp_path, make):
    archive = make(tmp_path / "bomb", entry("a", bytes(600_000)), entry("b", bytes(600_000)))
    assert archive.stat().st_size < 10_000
    assert "more than 1000000 bytes" in error_of(
        extract, archive, tmp_path / "out", ["a", "b"], 1_000_000
    )
    assert contents(tmp_path).keys() == {"bomb"}


def test_a_bomb_in_what_is_passed_over_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SKIP_LIMIT", 100_000)
    archive = make_tar(tmp_path / "bomb", entry("big", bytes(10_000_000)), entry("a"))
    assert "unpacks to more than" in error_of(extract, archive, tmp_path / "out", ["a"], 1000)


def test_a_bomb_in_a_header_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SKIP_LIMIT", 100_000)
    info, content = entry("a")
    info.pax_headers = {"comment": "x" * 10_000_000}
    archive = make_tar(tmp_path / "bomb", (info, content))
    assert "unpacks to more than" in error_of(extract, archive, tmp_path / "out", ["a"], 1000)


def test_a_bomb_after_the_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SKIP_LIMIT", 100_000)
    whole = make_tar(tmp_path / "archive", entry("a"), mode="w").read_bytes()
    (tmp_path / "archive").write_bytes(gzip.compress(whole + bytes(10_000_000)))
    message = error_of(extract, tmp_path / "archive", tmp_path / "out", ["a"], 1000)
    assert "unpacks to more than" in message


def test_the_checksum_at_the_end_of_gzip_is_looked_at(tmp_path):
    whole = make_tar(tmp_path / "archive", entry("a"), mode="w").read_bytes()
    packed = bytearray(gzip.compress(whole + bytes(100_000)))
    packed[-8] ^= 1
    (tmp_path / "archive").write_bytes(packed)
    assert "CRC" in error_of(extract, tmp_path / "archive", tmp_path / "out", ["a"], 1000)
    assert not (tmp_path / "out").exists()


def test_a_tar_that_claims_to_be_endless_is_refused(tmp_path):
    info, _ = entry("big", b"")
    info.size = 1 << 60
    (tmp_path / "archive").write_bytes(info.tobuf())
    message = error_of(extract, tmp_path / "archive", tmp_path / "out", ["a"], 1000)
    assert "unpacks to more than" in message


def test_a_zip_that_lies_about_sizes_is_refused(tmp_path):
    archive = make_zip(tmp_path / "archive", entry("a", bytes(100_000)))
    lie = archive.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(lie)
    error_of(extract, archive, tmp_path / "out", ["a"], 1000)
    assert not (tmp_path / "out").exists()


@MAKERS
def test_a_member_that_is_missing_is_named(tmp_path, make):
    archive = make(tmp_path / "archive", entry("folder/a"))
    message = error_of(extract, archive, tmp_path / "out", ["folder/a", "folder/b"], 1000)
    assert "folder/b" in message and "folder/a" not in message and str(archive) in message
    assert not (tmp_path / "out").exists()


@MAKERS
@pytest.mark.parametrize("damage", ["half", "end", "byte", "empty", "text"])
def test_a_damaged_archive_is_named(tmp_path, make, damage):
    archive = make(tmp_path / "archive", entry("a", CONTENT))
    whole = archive.read_bytes()
    middle = len(whole) // 2
    archive.write_bytes(
        {
            "half": whole[:middle],
            "end": whole[:-5],
            "byte": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "empty": b"",
            "text": b"<html>Please log in</html>" * 100,
        }[damage]
    )
    assert str(archive) in error_of(extract, archive, tmp_path / "out", ["a"], 1_000_000)
    assert not (tmp_path / "out").exists()


@MAKERS
def test_a_folder_is_not_taken_for_a_member(tmp_path, make):
    archive = make(tmp_path / "archive", entry("a/", b"", tarfile.DIRTYPE))
    assert "lacks" in error_of(extract, archive, tmp_path / "out", ["a"], 1000)


def test_an_archive_that_is_not_there(tmp_path):
    message = error_of(extract, tmp_path / "absent.zip", tmp_path / "out", ["a"], 1000)
    assert "absent.zip" in message


@MAKERS
def test_missing_files_are_added_and_the_users_own_are_kept(tmp_path, make):
    archive = make(tmp_path / "archive", entry("f/a", b"new"), entry("f/b", b"new"))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_bytes(b"my own")
    (folder / "notes.txt").write_bytes(b"notes")
    extract(archive, folder, ["f/a", "f/b"], 1000)
    assert contents(folder) == {"a": b"my own", "b": b"new", "notes.txt": b"notes"}
    assert not (tmp_path / "out.extracting").exists()


def test_what_a_killed_run_left_is_removed_also_when_nothing_is_missing(tmp_path):
    for folder in ("out", "out.extracting"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(b"a")
    extract(tmp_path / "absent", tmp_path / "out", ["a"], 1000)
    assert contents(tmp_path) == {"out/a": b"a"}


# --- Killed, interrupted, two at once, no room ----------------------------------------------------


@contextlib.contextmanager
def run(code, **options):
    """Starts Python code in another process, and makes sure that it ends."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    start += "from pathlib import Path\nfrom datasets import download as module\n"
    command = [sys.executable, "-c", start + code]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def download_code(remote_file, folder):
    values = {name: getattr(remote_file, name) for name in ("path", "urls", "size", "sha256")}
    return f"module.download(module.RemoteFile(**{values!r}), Path({str(folder)!r}))\n"


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_is_resumed(server, tmp_path, signal_number):
    url = server.add("/file.bin", CONTENT, hangs_after(200_000), honest)
    part = tmp_path / "set" / "file.bin.part"
    with run(download_code(remote(url), tmp_path)) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 100_000)
        process.send_signal(signal_number)
        process.wait()
    kept = part.stat().st_size
    assert kept > 100_000 and not (tmp_path / "set" / "file.bin").exists()
    assert_downloaded(download(remote(url), tmp_path), tmp_path)
    assert server.starts("/file.bin") == [0, kept]


def test_a_killed_extraction_is_not_taken_for_a_whole_one(tmp_path):
    archive = make_tar(tmp_path / "archive", entry("f/a", CONTENT), entry("f/b", OTHER))
    folder = tmp_path / "out"
    code = (
        "import time\n"
        "module.os.fsync = lambda _: (print('one file', flush=True), time.sleep(60))\n"
        f"module.extract(Path({str(archive)!r}), Path({str(folder)!r}), ['f/a', 'f/b'], 10**6)\n"
    )
    with run(code) as process:
        assert process.stdout.readline() == "one file\n"
        process.kill()
        process.wait()
    assert not folder.exists()
    (tmp_path / "out.extracting" / "stale").write_bytes(b"left over")
    extract(archive, folder, ["f/a", "f/b"], 1_000_000)
    assert contents(folder) == {"a": CONTENT, "b": OTHER}
    assert not (tmp_path / "out.extracting").exists()


def test_two_processes_fetch_a_file_once(server, tmp_path):
    url = server.add("/file.bin", CONTENT, hangs_after(100_000))
    code = download_code(remote(url), tmp_path)
    with run(code) as first:
        wait_for(lambda: server.requests)
        with run(code) as second:
            assert "waiting for another process" in second.stderr.readline()
            server.release.set()
            assert (first.wait(), second.wait()) == (0, 0)
    assert_downloaded(tmp_path / "set" / "file.bin", tmp_path)
    assert len(server.requests) == 1


def test_a_full_disk_keeps_what_has_arrived(server, tmp_path):
    resource = pytest.importorskip("resource")
    url = server.add("/file.bin", CONTENT)
    code = (
        f"try: {download_code(remote(url), tmp_path)}"
        "except module.DataError as error: print(f'DataError: {error}')\n"
    )
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    with run(code, preexec_fn=limit) as process:
        message, _ = process.communicate()
    part = tmp_path / "set" / "file.bin.part"
    assert message.startswith(f"DataError: cannot write {part}: {os.strerror(errno.EFBIG)}")
    assert message.count("\n") == 1
    assert part.read_bytes() == CONTENT[: part.stat().st_size] and part.stat().st_size > 0
    assert_downloaded(download(remote(url), tmp_path), tmp_path)


def test_a_full_disk_during_extraction_leaves_nothing_half_made(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "archive", entry("a"))

    def no_room(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", no_room)
        message = error_of(extract, archive, tmp_path / "out", ["a"], 1000)
    assert os.strerror(errno.ENOSPC) in message and str(tmp_path / "out") in message
    assert contents(tmp_path).keys() == {"archive"}
    extract(archive, tmp_path / "out", ["a"], 1000)
