"""Getting files: download from a list of mirrors, verify, extract.

Everything here can be killed at any moment and simply run again, because a file or folder bears its
final name only when it is whole. What is unfinished lies beside it: NAME.part is a download, which
the next run continues; NAME.extracting is a folder, which the next run makes anew. NAME.lock keeps
two processes from doing the same work, NAME.verified remembers that a file has been checked.

The environment variable EXAMPLES_MIRROR names a server to ask first: with `python -m http.server`
running in the data folder of another machine, EXAMPLES_MIRROR=http://that-machine:8000
"""

import contextlib
import gzip
import hashlib
import os
import posixpath
import re
import shutil
import stat
import struct
import sys
import tarfile
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import filelock
import requests
import urllib3
from tqdm import tqdm

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a single byte
ATTEMPTS = 3  # at one mirror, in a row, without progress
PROGRESS = 1 << 20  # bytes further than ever before: then a broken connection costs no attempt
BACK_OFF = 0.5  # seconds before the second attempt; doubles with each further one
MIN_SPEED = 200_000  # bytes a second; a slower mirror is left while there are others to try
SLOW_WINDOW = 20.0  # seconds over which the speed is measured
CHUNK = 1 << 18  # bytes read at a time
SKIP_LIMIT = 1 << 28  # bytes of a tar archive that may be passed over to reach what is wanted


class DataError(Exception):
    """A problem with a data file that the user can mend; str() is one line."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file: where it is to be found, where it goes, how it is recognised.

    Attributes:
        path: place below the data folder, with "/": "mnist/train-images-idx3-ubyte.gz".
        urls: addresses of this same file, in the order in which they are tried.
        size: length in bytes; None where it is not known.
        sha256: SHA-256 in hexadecimal digits; None where it is not known.
        md5: MD5 in hexadecimal digits; None where it is not known.
    """

    path: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


class _MirrorError(Exception):
    """One mirror failed. str() is a short reason; `retry`: it may work if asked again."""

    def __init__(self, reason: str, retry: bool = False, speed: float | None = None):
        super().__init__(textwrap.shorten(reason, 100))
        self.retry = retry
        self.speed = speed  # bytes a second, of a mirror that works, but too slowly


# --- Verify ---------------------------------------------------------------------------------------


def verify(path: Path, remote: RemoteFile) -> None:
    """Checks that a file is the published one: size, SHA-256 and MD5, as far as they are known.

    NAME.verified remembers that the checksum was right, for as long as the file's size and time of
    change stay the same, so that half a gigabyte need not be read again at every start.

    Raises:
        DataError: the file is missing, unreadable, or not the published one. It is left as it is.
    """
    if not path.is_file():
        raise DataError(f"{path.absolute()} is missing, or is not a file")
    note, hashes = _beside(path, ".verified"), _new_hashes(remote)
    try:
        state = path.stat()
        stamp = f"{state.st_size} {state.st_mtime_ns} sha256={remote.sha256} md5={remote.md5}\n"
        problem = _mismatch(remote, state.st_size, {})
        remembered = os.access(note, os.R_OK) and note.read_bytes() == stamp.encode()
        if hashes and not problem and not remembered:
            problem = _mismatch(remote, _hash_file(path, hashes), hashes)
            if not problem:
                with contextlib.suppress(OSError):  # a read-only folder: then check every time
                    note.write_bytes(stamp.encode())
    except OSError as error:
        raise DataError(f"cannot read {path.absolute()}: {error.strerror}") from error
    if problem:
        raise DataError(
            f"{path.absolute()} is not the published file: {problem}; "
            "move it away to have it downloaded anew"
        )


def _new_hashes(remote: RemoteFile) -> dict[str, Any]:
    names = [name for name in ("sha256", "md5") if getattr(remote, name)]
    return {name: hashlib.new(name, usedforsecurity=False) for name in names}


def _hash_file(path: Path, hashes: dict[str, Any]) -> int:
    """Feeds the file to the hashes, and returns its size in bytes."""
    with path.open("rb") as file, _bar("checking", path, path.stat().st_size, delay=2) as bar:
        while hashes and (chunk := file.read(CHUNK)):
            for value in hashes.values():
                value.update(chunk)
            bar.update(len(chunk))
    return path.stat().st_size


def _mismatch(remote: RemoteFile, size: int, hashes: dict[str, Any]) -> str:
    """Says in what a file differs from the published one: nothing, if it is the same."""
    if remote.size is not None and size != remote.size:
        return f"expected {remote.size} bytes, found {size}"
    for name, value in hashes.items():
        if value.hexdigest() != getattr(remote, name).lower():
            return f"expected {name} {getattr(remote, name)}, found {value.hexdigest()}"
    return ""


# --- Download -------------------------------------------------------------------------------------


def download(remote: RemoteFile, data_dir: Path) -> Path:
    """Returns data_dir / remote.path, a verified file, which is fetched if it is not there yet.

    A file that is in place, from an earlier run or put there by hand, is verified and used. If
    there is none, the mirrors are tried in order. Where one breaks off or is too slow, the next one
    continues; if all others fail, a slow one is used after all.

    With a checksum the bytes are known to be right. With a size alone, any file of that size
    passes; with neither, all that is checked is that the server sent as much as it announced.

    Raises:
        DataError: no mirror has it, it cannot be written, or another file is in its place.
    """
    target = data_dir / remote.path
    if not target.exists():
        with _only_process(target):
            if not target.exists():  # another process may have fetched it while this one waited
                _fetch(remote, target)
    verify(target, remote)
    return target


def _fetch(remote: RemoteFile, target: Path) -> None:
    """Fetches the file from the first mirror that delivers it, then gives it its final name."""
    part = _beside(target, ".part")
    urls, min_speed, failures = _addresses(remote), MIN_SPEED, []
    while urls:
        slow: dict[str, float] = {}
        for url in urls:
            try:
                _fetch_from(url, remote, part, min_speed)
                if not target.exists():  # else somebody has put it there by hand meanwhile
                    os.replace(part, target)
                return
            except _MirrorError as error:
                print(f"{url}: {error}", file=sys.stderr, flush=True)
                if error.speed is None:
                    failures.append(f"{url} ({error})")
                else:
                    slow[url] = error.speed
            except OSError as error:
                raise DataError(
                    f"cannot write {part.absolute()}: {error.strerror}; "
                    "what has arrived is kept, and the next run continues it"
                ) from error
        # All the others have failed: now a slow mirror is better than none, the fastest one first.
        urls, min_speed = sorted(slow, key=lambda url: -slow[url]), 0
    tried = ", ".join(failures) or "nothing, for no address is known"
    raise DataError(
        f"cannot download {remote.path}: tried {tried}; put the file at {target.absolute()} "
        "by hand; --data sample needs no network"
    )


def _addresses(remote: RemoteFile) -> list[str]:
    mirror = os.environ.get("EXAMPLES_MIRROR", "").strip().rstrip("/")
    if not mirror:
        return list(remote.urls)
    if not re.match(r"https?://", mirror):
        raise DataError(f"EXAMPLES_MIRROR must begin with http:// or https://, unlike {mirror!r}")
    return [f"{mirror}/{remote.path}", f"{mirror}/{Path(remote.path).name}", *remote.urls]


def _fetch_from(url: str, remote: RemoteFile, part: Path, min_speed: float) -> None:
    """Makes `part` whole from one mirror, which is asked again after errors that may pass."""
    failed, farthest = 0, _size(part)
    while True:
        try:
            return _transfer(url, remote, part, min_speed)
        except _MirrorError as error:
            reached = _size(part)
            failed = 1 if reached >= farthest + PROGRESS else failed + 1
            farthest = max(farthest, reached)
            if not error.retry or failed == ATTEMPTS:
                raise
        time.sleep(BACK_OFF * 2 ** (failed - 1))


def _transfer(url: str, remote: RemoteFile, part: Path, min_speed: float) -> None:
    """Continues `part` with one request; returns when it is whole and verified."""
    hashes = _new_hashes(remote)
    have = _hash_file(part, hashes) if part.exists() else 0
    if remote.size is not None and have >= remote.size:
        if not _mismatch(remote, have, hashes):
            return
        part.unlink()  # too long, or other bytes: not the beginning of this file
        have = 0

    response, start, size = _request(url, have, remote)
    if start == 0:
        hashes = _new_hashes(remote)
    have = start
    with (
        response,
        part.open("ab" if start else "wb") as file,
        _bar("fetching", Path(remote.path), size, initial=start) as bar,
    ):
        window_start, window_bytes = time.monotonic(), 0
        for chunk in _chunks(response):
            file.write(chunk)
            for value in hashes.values():
                value.update(chunk)
            have += len(chunk)
            bar.update(len(chunk))
            if size is not None and have >= size:
                break
            window_bytes += len(chunk)
            seconds = time.monotonic() - window_start
            if seconds >= SLOW_WINDOW:
                speed = window_bytes / seconds
                if speed < min_speed:
                    raise _MirrorError(f"sends only {speed / 1000:.0f} kB/s", speed=speed)
                window_start, window_bytes = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())  # first the bytes, then the name, even if the power fails

    if size is not None and have < size:
        raise _MirrorError(f"broke off after {have} of {size} bytes", retry=True)
    if _mismatch(remote, have, hashes):
        part.unlink()  # no other mirror is to continue wrong bytes
        # If the beginning came from elsewhere, it may be at fault: then once more from zero.
        raise _MirrorError("sent other bytes than were published", retry=start > 0)


def _request(url: str, have: int, remote: RemoteFile) -> tuple[requests.Response, int, int | None]:
    """Asks for the file from byte `have` on.

    Returns:
        The response, the place in the file of its first byte, the size of the file if known.
    """
    # "identity": the bytes of the file itself, not packed for the journey.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeouts = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=timeouts)
    except requests.ConnectTimeout as error:
        raise _MirrorError(f"no connection within {CONNECT_TIMEOUT:g} s") from error
    except (
        OSError,
        ValueError,
        urllib3.exceptions.HTTPError,
    ) as error:  # requests' own are OSErrors
        may_pass = isinstance(error, (requests.ConnectionError, requests.Timeout))
        raise _MirrorError(root_cause(error), retry=may_pass) from error

    status, start, total = response.status_code, 0, response.headers.get("Content-Length", "")
    if status == 206:
        content_range = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d+|\*)", content_range)
        start, total = (int(found[1]), found[2]) if found else (-1, "")
    if have and (status == 416 or (status == 206 and start != have)):
        response.close()
        return _request(url, 0, remote)  # it cannot continue there: the whole file, then
    size = int(total) if re.fullmatch(r"\d{1,18}", total) else remote.size
    problem = ""
    if status not in (200, 206):
        problem = f"{status} {response.reason}"
    elif start not in (0, have):
        problem = "sent a piece that nobody asked for"
    elif remote.size not in (None, size):
        problem = f"offers {size} bytes, {remote.size} were published"
    elif response.headers.get("Content-Type", "").startswith("text/html"):
        problem = "sent a web page instead of the file"
    if problem:
        response.close()
        raise _MirrorError(problem, retry=status >= 500 or status == 429)  # 429: too many requests
    return response, start, size


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yields the bytes when they arrive and as they are: Content-Encoding is not undone."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise _MirrorError(root_cause(error), retry=True) from error


def root_cause(error: BaseException) -> str:
    """Returns what lies at the bottom of a chain of exceptions, such as "Connection refused"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# --- Extract --------------------------------------------------------------------------------------

# What tarfile, zipfile and gzip raise when an archive is truncated, damaged, or none at all.
_ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,
)


def extract(archive: Path, destination: Path, members: Sequence[str], max_bytes: int) -> Path:
    """Takes `members`, and nothing else, out of a tar.gz, tar or zip archive: all of them or none.

    The folder that all members share is left off: "cifar-10-batches-py/data_batch_1" goes to
    destination/data_batch_1. Files already in the destination stay as they are; if none is missing,
    the archive is not even opened.

    Only the contents of plain files are taken, to places that the caller named. An archive with an
    absolute path, "..", a link, a device, or a wanted member twice is refused.

    Args:
        archive: the archive.
        destination: the folder; it is made if it is missing.
        members: names inside the archive, with "/".
        max_bytes: limit for all members together, counted while they are unpacked.

    Returns:
        The destination.

    Raises:
        DataError: the archive is damaged, hostile, too large, lacks a member; or the disk is full.
    """
    names = [PurePosixPath(member) for member in members]
    shared = posixpath.commonpath([str(name.parent) for name in names])
    places = {str(name): name.relative_to(shared) for name in names}

    def missing() -> dict[str, PurePosixPath]:
        return {
            name: place for name, place in places.items() if not (destination / place).is_file()
        }

    temporary = _beside(destination, ".extracting")
    if missing() or temporary.exists():
        with _only_process(destination):
            shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
            if wanted := missing():  # another process may have made them while this one waited
                _extract_whole(archive, destination, temporary, wanted, max_bytes)
    return destination


def _extract_whole(
    archive: Path,
    destination: Path,
    temporary: Path,
    places: dict[str, PurePosixPath],
    max_bytes: int,
) -> None:
    """Unpacks into a temporary folder beside the destination, and renames it when it is whole."""
    try:
        temporary.mkdir()
        _unpack(archive, temporary, places, max_bytes)
        if not destination.exists():
            os.rename(temporary, destination)
        else:  # it lacks some files: they are added, each of them whole
            for place in places.values():
                (destination / place).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / place, destination / place)
    except _ARCHIVE_ERRORS as error:
        reason = textwrap.shorten(str(error), 150)
        raise DataError(
            f"cannot use the archive {archive.absolute()}: {reason}; "
            "move it away to have it downloaded anew"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot extract {archive.absolute()} to {destination.absolute()}: "
            f"{error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(archive: Path, folder: Path, places: dict[str, PurePosixPath], max_bytes: int) -> None:
    found, written = set(), 0
    size = archive.stat().st_size
    with archive.open("rb") as file, _bar("extracting", archive, size, delay=2) as bar:
        entries = _zip_entries(file) if _starts_with(file, b"PK") else _tar_entries(file, max_bytes)
        for raw_name, kind, open_entry in entries:
            # Backslashes and drive letters too: what leads out on any system leads out.
            path = PurePosixPath(raw_name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", raw_name):
                raise ValueError(f"an entry leads out of the folder: {raw_name!r}")
            if kind == "other":
                raise ValueError(f"an entry is a link or a device: {raw_name!r}")
            name = str(path)  # without "./" and "//"
            if name in found:
                raise ValueError(f"a file is in it twice: {raw_name!r}")
            if name not in places or kind == "folder":
                continue
            found.add(name)
            target = folder / places[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_entry() as source, target.open("wb") as output:
                while chunk := source.read(CHUNK):
                    written += len(chunk)
                    if written > max_bytes:
                        raise ValueError(f"it unpacks to more than {max_bytes} bytes")
                    output.write(chunk)
                    bar.update(file.tell() - bar.n)  # how far the archive has been read
                output.flush()
                os.fsync(output.fileno())
    if lacking := sorted(places.keys() - found):
        raise ValueError(f"it lacks {len(lacking)} of the files wanted: {', '.join(lacking)}")


def _tar_entries(file: IO[bytes], max_bytes: int) -> Iterator[tuple[str, str, Callable]]:
    """Yields for each entry its name, "file", "folder" or "other", and how to open it."""
    plain_file = gzip.GzipFile(fileobj=file) if _starts_with(file, b"\x1f\x8b") else file
    stream = _Limited(plain_file, max_bytes + SKIP_LIMIT)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as tar:
        for entry in tar:
            if tar.offset > stream.limit:  # where it says that the next one is
                raise ValueError(f"it unpacks to more than {stream.limit} bytes")
            if hasattr(tarfile, "data_filter"):  # Python 3.10.12, 3.11.4 and later
                tarfile.data_filter(entry, "archive")
            kind = "file" if entry.isreg() else "folder" if entry.isdir() else "other"
            yield entry.name, kind, lambda entry=entry: tar.extractfile(entry)
    while stream.read(CHUNK):  # to the end, where gzip keeps the checksum of the whole
        pass


def _zip_entries(file: IO[bytes]) -> Iterator[tuple[str, str, Callable]]:
    """Yields the same for a zip archive."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            mode = stat.S_IFMT(entry.external_attr >> 16)  # 0: from a system without such bits
            is_plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "other" if not is_plain else "folder" if entry.is_dir() else "file"
            yield entry.filename, kind, lambda entry=entry: archive.open(entry)


class _Limited:
    """A stream that refuses to give more than `limit` bytes, however small the file it unpacks."""

    def __init__(self, stream: IO[bytes], limit: int):
        self.stream, self.limit, self.given = stream, limit, 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.given += len(data)
        if self.given > self.limit:
            raise ValueError(f"it unpacks to more than {self.limit} bytes")
        return data


# --- Small things ---------------------------------------------------------------------------------


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _starts_with(file: IO[bytes], magic: bytes) -> bool:
    start = file.read(len(magic))
    file.seek(0)
    return start == magic


def _bar(verb: str, path: Path, size: int | None, **options: Any) -> tqdm:
    return tqdm(desc=f"{verb} {path.name}", total=size, unit="B", unit_scale=True, **options)


@contextlib.contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Holds the lock of a file or folder; the system frees it if the process is killed."""
    lock = filelock.FileLock(_beside(path, ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"waiting for another process at work on {path}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise DataError(f"cannot write to {path.parent.absolute()}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
