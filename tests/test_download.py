"""Checks datasets/download.py and files.py: misbehaving servers, hostile archives, kills."""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import misbehaving_server as does
import pytest
from programs import ROOT, one_line_of, wait_for

from datasets import download as module
from datasets import files as files_module
from datasets.download import DataError, RemoteFile, download, verify
from datasets.files import extract, fill

CONTENT, OTHER = (random.Random(seed).randbytes(300_000) for seed in (0, 1))
error_of = partial(one_line_of, DataError)
SIZE, SHA256, MD5 = 300_000, hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BACK_OFF", 0.01)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EXAMPLES_MIRROR", raising=False)


@pytest.fixture
def server():
    server = does.MisbehavingServer()
    yield server
    server.stop()


def remote(*urls, **known):
    return RemoteFile("set/file.bin", urls, **(known or {"size": SIZE, "sha256": SHA256}))


def lay(folder, content, name="file.bin"):
    path = folder / "set" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def assert_downloaded(path, folder):
    assert path == folder / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert not (folder / "set" / "file.bin.part").exists()


@pytest.mark.parametrize(
    "known", [{"sha256": SHA256.upper()}, {"md5": MD5}, {"size": SIZE}, {"md5": ""}]
)
@pytest.mark.parametrize("behaviour", [does.honest, does.answers(200), does.closes_after(120_000)])
def test_downloads_once_with_what_is_known(server, tmp_path, known, behaviour):
    url = server.add("/file.bin", CONTENT, behaviour, does.honest)
    for _ in range(2):
        assert_downloaded(download(remote(url, **known), tmp_path), tmp_path)
    assert len(server.requests) <= 2  # none for the second call


PAGE = does.answers(200, b"<html>Log in", Content_Type="text/html; charset=utf-8")
CUT, GONE, WHOLE = does.closes_after(100_000), does.status(404), does.honest
GOOD = (CONTENT, WHOLE)
# What the mirrors have, and do in turn; from which byte on each is asked; why the first is left.
MIRRORS = [
    ([(CONTENT, does.status(503), does.status(429), WHOLE)], [[0, 0, 0]], ""),
    ([(CONTENT, CUT, does.closes_after(50_000), WHOLE)], [[0, 100_000, 150_000]], ""),
    ([(CONTENT, does.closes_after(0), does.closes_after(10), WHOLE)], [[0, 0, 10]], ""),
    ([(CONTENT, does.resets_after(0), WHOLE)], [[0, 0]], ""),
    ([(CONTENT, CUT, does.ignores_range)], [[0, 100_000]], ""),
    ([(CONTENT, CUT, does.refuses_range)], [[0, 100_000, 0]], ""),
    ([(CONTENT, CUT, does.answers_another_range)], [[0, 100_000, 0]], ""),
    ([(CONTENT, CUT, does.names_no_range)], [[0, 100_000, 0]], ""),
    ([(CONTENT, CUT, does.lies_about_range, WHOLE)], [[0, 100_000, 0]], ""),
    ([(CONTENT, does.answers(200, Content_Length="9" * 5000))], [[0]], ""),
    ([(CONTENT, does.packs_when_allowed)], [[0]], ""),
    ([(CONTENT, CUT, GONE), GOOD], [[0, 100_000], [100_000]], "404 Not Found"),
    ([(OTHER, CUT, GONE), GOOD], [[0, 100_000], [100_000, 0]], "404 Not Found"),
    ([(CONTENT, does.status(503)), GOOD], [[0] * 4, [0]], "503 Service Unavailable"),
    ([(CONTENT, does.resets_after(0)), GOOD], [[0] * 4, [0]], "reset"),
    ([(CONTENT, does.status(403)), GOOD], [[0], [0]], "403 Forbidden"),
    ([(OTHER, WHOLE), GOOD], [[0], [0]], "sent other bytes than were published"),
    ([(CONTENT + b"!", WHOLE), GOOD], [[0], [0]], "offers 300001 bytes, 300000 were published"),
    ([(CONTENT[:-1], WHOLE), GOOD], [[0], [0]], "offers 299999 bytes, 300000 were published"),
    ([(CONTENT, does.packs), GOOD], [[0], [0]], "were published"),
    ([(b"", PAGE), GOOD], [[0], [0]], "sent a web page instead of the file"),
    ([(b"", does.sends_without_end), GOOD], [[0], [0]], "sent other bytes than were published"),
    ([(b"", does.redirects("http://[nowhere")), GOOD], [[0], [0]], "/0: "),
    ([(b"", does.redirects("http://host:port/")), GOOD], [[0], [0]], "/0: "),
    ([(b"", does.redirects("http://.nowhere/")), GOOD], [[0], [0]], "/0: "),
    ([(b"", does.redirects("gopher://nowhere")), GOOD], [[0], [0]], "No connection adapters"),
]


@pytest.mark.parametrize(("mirrors", "starts", "reason"), MIRRORS)
@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5}], ids=["sha256", "md5"])
def test_mirrors_that_misbehave(server, tmp_path, capsys, mirrors, starts, reason, known):
    urls = [server.add(f"/{i}", *mirror) for i, mirror in enumerate(mirrors)]
    assert_downloaded(download(remote(*urls, size=SIZE, **known), tmp_path), tmp_path)
    assert [server.starts(f"/{i}") for i in range(len(mirrors))] == starts
    printed = capsys.readouterr().err
    assert reason in printed and (not reason or f"{urls[0]}: " in printed)


def test_of_unknown_size(server, tmp_path):
    urls = server.add("/bad", OTHER[:1000]), server.add("/good", CONTENT)
    assert_downloaded(download(remote(*urls, sha256=SHA256), tmp_path), tmp_path)
    assert server.starts("/good") == [0]  # what was whole and wrong is not continued
    packed = gzip.compress(CONTENT)  # a .gz file as it is, which many servers call an encoding
    url = server.add("/file.gz", packed, does.answers(200, Content_Encoding="gzip"))
    known = {"sha256": hashlib.sha256(packed).hexdigest()}
    assert download(remote(url, **known), tmp_path / "gz").read_bytes() == packed


def test_a_silent_mirror_is_left_keeping_what_it_sent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUTS", (1, 0.2))
    silent = server.add("/silent", CONTENT, does.hangs_after(70_000), GONE)
    assert_downloaded(download(remote(silent, server.add("/1", CONTENT)), tmp_path), tmp_path)
    assert 0 < server.starts("/1")[0] <= 70_000


def test_a_slow_mirror_is_left_and_used_when_all_others_fail(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SLOW_WINDOW", 0.1)
    monkeypatch.setattr(module, "MIN_SPEED", 50_000_000)
    tardy, gone = server.add("/0", CONTENT, does.slow(500_000)), server.add("/1", b"", GONE)
    assert_downloaded(download(remote(tardy, gone), tmp_path), tmp_path)
    assert [path for path, _ in server.requests] == ["/0", "/1", "/0"]
    assert server.requests[-1][1] > 0  # it goes on where it stopped
    assert "sends only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        (CONTENT[:1000], [1000]),
        (CONTENT, []),
        (OTHER[:1000], [1000, 0]),
        (OTHER, [300_000, 0]),
        (CONTENT + b"longer", [300_006, 0]),
        (b"", [0]),
    ],
)
def test_a_partial_file_from_an_earlier_run(server, tmp_path, part, requests):
    lay(tmp_path, part, "file.bin.part")
    behaviours = [does.refuses_range, WHOLE] if len(part) >= SIZE else [WHOLE]
    url = server.add("/file.bin", CONTENT, *behaviours)
    assert_downloaded(download(remote(url), tmp_path), tmp_path)
    assert server.starts("/file.bin") == requests


def test_a_useless_answer_leaves_the_partial_file_alone_and_the_error_says_all(
    server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    part = lay(tmp_path, CONTENT[:1000], "file.bin.part")
    gone, closed = server.add("/gone", CONTENT, GONE), "http://127.0.0.1:9/nobody"
    longer = server.add("/longer", CONTENT + b"!", does.ignores_range)
    message = error_of(
        download, remote(gone, longer, server.add("/page", b"", PAGE), closed), Path()
    )
    assert part.read_bytes() == CONTENT[:1000]
    for text in (
        "cannot download set/file.bin",
        f"{gone} (404 Not Found)",
        f"{closed} ({os.strerror(errno.ECONNREFUSED)})",
        f"put the file at {tmp_path / 'set' / 'file.bin'} by hand; --data sample needs no network",
    ):
        assert text in message
    assert "no address is known" in error_of(download, remote(), tmp_path)


def test_a_file_put_there_by_hand_is_used_and_its_check_remembered(tmp_path, monkeypatch):
    path = lay(tmp_path, CONTENT)
    assert download(remote(), tmp_path) == path
    with monkeypatch.context() as patch:
        patch.setattr(module, "_hash", None)  # a second check of the contents would fail
        assert download(remote(), tmp_path) == path
    path.write_bytes(OTHER)
    os.utime(path, ns=(0, 0))
    assert SHA256 in error_of(download, remote(), tmp_path)
    (path.parent / "file.bin.verified").write_bytes(b"\xff\x00 nonsense")
    error_of(verify, path, remote())


@pytest.mark.parametrize("content", [OTHER, b"short", b""])
def test_a_wrong_file_put_there_by_hand_is_reported_and_kept(server, tmp_path, content):
    path = lay(tmp_path, content)
    message = error_of(download, remote(server.add("/file.bin", CONTENT)), tmp_path)
    found = hashlib.sha256(OTHER).hexdigest() if content == OTHER else f"found {len(content)}"
    for text in (str(path), "is not the published file", "move it away", found):
        assert text in message
    assert path.read_bytes() == content
    assert server.requests == []


def test_a_file_put_there_during_the_download_is_not_overwritten(server, tmp_path):
    def meanwhile(request, content):
        lay(tmp_path, b"precious")
        does.honest(request, content)

    error_of(download, remote(server.add("/file.bin", CONTENT, meanwhile)), tmp_path)
    assert (tmp_path / "set" / "file.bin").read_bytes() == b"precious"


def test_places_that_cannot_be_used(tmp_path):
    assert "is missing" in error_of(verify, tmp_path / "absent", remote())
    (tmp_path / "set" / "file.bin").mkdir(parents=True)
    assert "not a file" in error_of(download, remote(), tmp_path)
    (tmp_path / "file").write_text("not a folder")
    assert "cannot write" in error_of(download, remote(), tmp_path / "file")
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o500)
        assert str(tmp_path) in error_of(download, remote(), tmp_path / "new")
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("place", ["/mine/set/file.bin", "/mine/file.bin", "/other"])
def test_examples_mirror_is_asked_first(server, tmp_path, monkeypatch, place):
    monkeypatch.setenv("EXAMPLES_MIRROR", server.add("/mine", b"", GONE) + "/")
    server.add(place, CONTENT)
    assert_downloaded(download(remote(server.add("/other", CONTENT)), tmp_path), tmp_path)
    order = ["/mine/set/file.bin", "/mine/file.bin", "/other"]
    assert [path for path, _ in server.requests] == order[: order.index(place) + 1]
    for value in ("localhost:8000", "/a/folder", "ftp://host", "http://host:port"):
        monkeypatch.setenv("EXAMPLES_MIRROR", value)
        assert value in error_of(download, remote(), tmp_path / "new")


def entry(name, content=b"content", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, io.BytesIO(content)


def make_tar(path, *entries):
    with tarfile.open(path, "w:gz") as tar:
        for info, content in entries:
            content.seek(0)
            tar.addfile(info, content)
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_extracts_exactly_the_members(tmp_path):
    inside = ["./batches/a", "batches//b", "batches/c", "top"]
    archive = make_tar(tmp_path / "archive", *(entry(name, 30 * CONTENT) for name in inside))
    members, folder = ["batches/a", "batches/b", "top"], tmp_path / "new" / "out"
    assert extract(archive, folder, members, 10**8) == folder
    assert contents(folder) == dict.fromkeys(["a", "b", "top"], 30 * CONTENT)
    assert {path.name for path in folder.parent.iterdir()} == {"out", "out.lock"}
    archive.unlink()
    assert extract(archive, folder, members, 10**8) == folder  # whole: needs no archive


ENDLESS = entry("big", b"")[0]
ENDLESS.size = 1 << 60


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place:][1:]


REFUSED = {
    "parent": [entry("../evil"), entry("a")],
    "deep parent": [entry("b/../../evil"), entry("a")],
    "symlink": [entry("a", kind=tarfile.SYMTYPE, link="/etc/passwd")],
    "symlink out": [entry("a"), entry("b", kind=tarfile.SYMTYPE, link="../../secret")],
    "hard link out": [entry("a", kind=tarfile.LNKTYPE, link="../secret")],
    "device": [entry("a"), entry("b", kind=tarfile.CHRTYPE)],
    "folder": [entry("a", b"", tarfile.DIRTYPE)],
    "absolute": [entry("/a")],
    "missing": [entry("b")],
    "twice": [entry("a"), entry("./a", b"other")],
    "bomb": [entry("a", bytes(600_000)), entry("b", bytes(600_000))],
    "bomb in what is passed over": [entry("b", bytes(10_000_000)), entry("a")],
    # What befalls a whole archive:
    "half": lambda whole: whole[: len(whole) // 2],
    "end": lambda whole: whole[:-5],
    "byte": lambda whole: flipped(whole, len(whole) // 2),
    "checksum": lambda whole: flipped(gzip.compress(gzip.decompress(whole) + bytes(1 << 20)), -8),
    "endless": lambda whole: gzip.compress(ENDLESS.tobuf()),
    "empty": lambda whole: b"",
    "text": lambda whole: b"<html>Please log in</html>" * 100,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_hostile_and_damaged_archives_are_refused_and_nothing_is_written(tmp_path, kind):
    home = tmp_path / "x" / "y"
    home.mkdir(parents=True)
    (tmp_path / "x" / "secret").write_bytes(b"secret")
    hostile = REFUSED[kind] if isinstance(REFUSED[kind], list) else [entry("a", CONTENT)]
    archive = make_tar(home / "archive", *hostile)
    if callable(REFUSED[kind]):
        archive.write_bytes(REFUSED[kind](archive.read_bytes()))
    message = error_of(extract, archive, home / "out", ["a"], 1_000_000)
    assert kind == "twice" or str(archive) in message
    assert contents(tmp_path) == {"x/y/archive": archive.read_bytes(), "x/secret": b"secret"}
    assert {path.name for path in home.iterdir()} == {"archive", "out.lock"}
    archive.unlink()
    assert str(archive) in error_of(extract, archive, home / "out", ["a"], 1_000_000)


def test_missing_files_are_added_and_the_users_own_are_kept(tmp_path):
    archive = make_tar(tmp_path / "archive", entry("f/a", b"new"), entry("f/b", b"new"))
    for folder in ("out", "out.making"):  # the latter left by a run that was killed
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(b"my own")
    (tmp_path / "out" / "notes.txt").write_bytes(b"notes")
    extract(archive, tmp_path / "out", ["f/a", "f/b"], 1000)
    assert contents(tmp_path / "out") == {"a": b"my own", "b": b"new", "notes.txt": b"notes"}
    assert not (tmp_path / "out.making").exists()


@contextlib.contextmanager
def run(code, **options):
    """Start Python code in another process, and make sure that it ends."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    start += "from pathlib import Path\nfrom datasets import download as module, files\n"
    command = [sys.executable, "-c", start + code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def download_code(remote_file, folder):
    values = {name: getattr(remote_file, name) for name in ("path", "urls", "size", "sha256")}
    return f"module.download(module.RemoteFile(**{values!r}), Path({str(folder)!r}))\n"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_download_is_resumed(server, tmp_path, name):
    url = server.add("/file.bin", CONTENT, does.hangs_after(200_000), WHOLE)
    part = tmp_path / "set" / "file.bin.part"
    with run(download_code(remote(url), tmp_path)) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 100_000)
        process.send_signal(getattr(signal, name))
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
        "files.shutil.copyfileobj = lambda *_: (print('one file', flush=True), time.sleep(60))\n"
        f"files.extract(Path({str(archive)!r}), Path({str(folder)!r}), ['f/a', 'f/b'], 10**6)\n"
    )
    with run(code) as process:
        assert process.stdout.readline() == "one file\n"
        process.kill()
        process.wait()
    assert not folder.exists() and (tmp_path / "out.making").exists()
    extract(archive, folder, ["f/a", "f/b"], 1_000_000)
    assert contents(folder) == {"a": CONTENT, "b": OTHER}
    assert not (tmp_path / "out.making").exists()


def test_two_processes_fetch_a_file_once(server, tmp_path):
    url = server.add("/file.bin", CONTENT, does.hangs_after(100_000))
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


def test_a_full_disk_while_a_folder_is_made_leaves_nothing_half_made(tmp_path, monkeypatch):
    def no_room(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def make(empty):
        (empty / "a").write_bytes(b"a")

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "fsync", no_room)
        message = error_of(fill, tmp_path / "out", ["a"], make)
    assert os.strerror(errno.ENOSPC) in message and str(tmp_path / "out") in message
    assert not contents(tmp_path)
    assert contents(fill(tmp_path / "out", ["a"], make)) == {"a": b"a"}
