"""Getting files: download from a list of mirrors, and verify.

Everything here can be killed at any moment and simply run again, because a file bears its final
name only when it is whole. Beside it, NAME.part is an unfinished download, which the next run
continues; NAME.lock keeps two processes from doing the same work; NAME.verified remembers that a
file has been checked.

The environment variable EXAMPLES_MIRROR names a server to ask first: with `python -m http.server`
running in the data folder of another machine, EXAMPLES_MIRROR=http://that-machine:8000
"""

import contextlib
import hashlib
import os
import re
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from tqdm import tqdm

from datasets.files import DataError, only_process, unreadable, wrong

TIMEOUTS = (10.0, 30.0)  # seconds until connected, seconds without a single byte
ATTEMPTS = 4  # at one mirror
BACK_OFF = 0.5  # seconds before the second attempt; doubles with each further one
MIN_SPEED = 200_000  # bytes a second; a slower mirror is left while there are others to try
SLOW_WINDOW = 20.0  # seconds over which the speed is measured
CHUNK = 1 << 18  # bytes read at a time


@dataclass(frozen=True)
class RemoteFile:
    """A published file: where it goes, where it is to be found, how it is recognised."""

    path: str  # below the data folder, with "/": "mnist/train-images-idx3-ubyte.gz"
    urls: tuple[str, ...]  # addresses of this same file, in the order in which they are tried
    size: int | None = None  # in bytes, where it is known
    sha256: str = ""  # in hexadecimal digits, where it is known
    md5: str = ""  # likewise, for files of which no SHA-256 is known

    def new_hash(self) -> Any:
        """Return an object of hashlib that computes the checksum that is known."""
        return hashlib.new("md5" if self.md5 else "sha256", usedforsecurity=False)

    def mismatch(self, size: int, digest: str) -> str:
        """Say in what a file differs from the published one: nothing, if it is the same."""
        if self.size not in (None, size):
            return f"expected {self.size} bytes, found {size}"
        expected = (self.md5 or self.sha256).lower()
        if expected not in ("", digest):
            return f"expected checksum {expected}, found {digest}"
        return ""


class _MirrorError(Exception):
    """One mirror failed. `retry`: it may work if asked again. `slow`: it works, but too slowly."""

    def __init__(self, reason: str, retry: bool = False, slow: bool = False):
        super().__init__(textwrap.shorten(reason, 100))
        self.retry, self.slow = retry, slow


def verify(path: Path, remote: RemoteFile) -> None:
    """Check that a file is the published one: size and checksum, as far as they are known.

    NAME.verified remembers that it was right for as long as its size and time of change stay the
    same, so that half a gigabyte need not be read again at every start.

    Raises:
        DataError: the file is missing, unreadable, or not the published one. It is left as it is.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path.absolute()} is missing, or is not a file")
    note = path.with_name(f"{path.name}.verified")
    try:
        state = path.stat()
        stamp = f"{state.st_size} {state.st_mtime_ns} {remote.sha256}{remote.md5}".encode()
        if os.path.isfile(note) and note.read_bytes() == stamp:
            return
        problem = remote.mismatch(state.st_size, _hash(path, remote).hexdigest())
    except OSError as error:
        raise unreadable(path, error) from error
    if problem:
        raise wrong(path, f"it is not the published file: {problem}")
    with contextlib.suppress(OSError):  # a read-only folder: then check every time
        note.write_bytes(stamp)


def _hash(path: Path, remote: RemoteFile) -> Any:
    """Return the hash of what a file holds, ready to take in more."""
    value = remote.new_hash()
    with path.open("rb") as file, _bar("checking", path.name, path.stat().st_size, delay=2) as bar:
        while chunk := file.read(CHUNK):
            value.update(chunk)
            bar.update(len(chunk))
    return value


def _bar(verb: str, name: str, size: int | None, **options: Any) -> tqdm:
    return tqdm(desc=f"{verb} {name}", total=size, unit="B", unit_scale=True, **options)


def download(remote: RemoteFile, data_dir: Path) -> Path:
    """Return data_dir / remote.path, a verified file, which is fetched if it is not there yet.

    The mirrors are tried in order. Where one breaks off or is too slow, the next one continues; if
    all others fail, a slow one is used after all. Without size and checksum, all that is checked is
    that the server sent as much as it announced.

    Raises:
        DataError: no mirror has it, it cannot be written, or another file is in its place.
    """
    target = data_dir / remote.path
    if not os.path.exists(target):
        with only_process(target):
            if not target.exists():  # another process may have fetched it while this one waited
                _fetch(remote, target)
    verify(target, remote)
    return target


def _fetch(remote: RemoteFile, target: Path) -> None:
    """Fetch the file from the first mirror that delivers it, then give it its final name."""
    part, failures = target.with_name(f"{target.name}.part"), []
    queue = [(url, 1, MIN_SPEED) for url in _addresses(remote)]
    while queue:
        url, attempt, min_speed = queue.pop(0)
        try:
            _transfer(url, remote, part, min_speed)
            if not target.exists():  # else somebody has put it there by hand meanwhile
                os.replace(part, target)
            return
        except _MirrorError as error:
            if error.retry and attempt < ATTEMPTS:
                time.sleep(BACK_OFF * 2 ** (attempt - 1))
                queue.insert(0, (url, attempt + 1, min_speed))
                continue
            print(f"{url}: {error}", file=sys.stderr, flush=True)
            failures.append(f"{url} ({error})")
            if error.slow:  # when all the others have failed, it is better than none
                queue.append((url, 1, 0))
        except OSError as error:
            kept = "what has arrived is kept, and the next run continues it"
            raise DataError(f"cannot write {part.absolute()}: {error.strerror}; {kept}") from error
    tried = ", ".join(failures) or "nothing, for no address is known"
    by_hand = f"put the file at {target.absolute()} by hand; --data sample needs no network"
    raise DataError(f"cannot download {remote.path}: tried {tried}; {by_hand}")


def _addresses(remote: RemoteFile) -> list[str]:
    mirror = os.environ.get("EXAMPLES_MIRROR", "").strip().rstrip("/")
    if not mirror:
        return list(remote.urls)
    if not re.match(r"https?://", mirror):
        raise DataError(f"EXAMPLES_MIRROR must begin with http:// or https://, unlike {mirror!r}")
    return [f"{mirror}/{remote.path}", f"{mirror}/{Path(remote.path).name}", *remote.urls]


def _transfer(url: str, remote: RemoteFile, part: Path, min_speed: float) -> None:
    """Continue `part` with one request; return when it is whole and verified."""
    have = part.stat().st_size if part.exists() else 0
    value = _hash(part, remote) if have else remote.new_hash()
    known = remote.size or remote.sha256 or remote.md5
    if have and known and not remote.mismatch(have, value.hexdigest()):
        return  # whole, but a kill came before it got its name
    response, start, size = _request(url, have, remote)
    have, value = start, value if start else remote.new_hash()
    bar = _bar("fetching", part.stem, size, initial=start)
    with response, bar, part.open("ab" if start else "wb") as file:
        since, before = time.monotonic(), have
        while chunk := _chunk(response):
            file.write(chunk)
            value.update(chunk)
            bar.update(len(chunk))
            have += len(chunk)
            if size is not None and have >= size:
                break
            if (seconds := time.monotonic() - since) >= SLOW_WINDOW:
                speed = (have - before) / seconds
                if speed < min_speed:
                    raise _MirrorError(f"sends only {speed / 1000:.0f} kB/s", slow=True)
                since, before = time.monotonic(), have
        file.flush()
        os.fsync(file.fileno())  # first the bytes, then the name, even if the power fails
    if size is not None and have < size:
        raise _MirrorError(f"broke off after {have} of {size} bytes", retry=True)
    if remote.mismatch(have, value.hexdigest()):
        part.unlink()  # no other mirror is to continue wrong bytes
        # If the beginning came from elsewhere, it may be at fault: then once more from zero.
        raise _MirrorError("sent other bytes than were published", retry=start > 0)


def _request(url: str, have: int, remote: RemoteFile) -> tuple[requests.Response, int, int | None]:
    """Ask for the rest: return the response, where in the file it begins, the size if known."""
    # "identity": the bytes of the file itself, not packed for the journey.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' are OSErrors
        may_pass = isinstance(error, (requests.ConnectionError, requests.Timeout))
        raise _MirrorError(root_cause(error), retry=may_pass) from error
    status, length = response.status_code, response.headers.get("Content-Length", "")
    piece = response.headers.get("Content-Range", "")
    start = have if status == 206 and piece.startswith(f"bytes {have}-") else 0
    size = start + int(length) if re.fullmatch(r"\d{1,18}", length) else remote.size
    if have and not start and status in (206, 416):
        response.close()
        return _request(url, 0, remote)  # it cannot go on from there: the whole file, then
    if status not in (200, 206):
        problem = f"{status} {response.reason}"
    elif remote.size not in (None, size):
        problem = f"offers {size} bytes, {remote.size} were published"
    elif response.headers.get("Content-Type", "").startswith("text/html"):
        problem = "sent a web page instead of the file"
    else:
        return response, start, size
    response.close()
    raise _MirrorError(problem, retry=status >= 500 or status == 429)  # 429: too many requests


def _chunk(response: requests.Response) -> bytes:
    """Return what has arrived, once something has, as it is: Content-Encoding is not undone."""
    try:
        return response.raw.read1(CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise _MirrorError(root_cause(error), retry=True) from error


def root_cause(error: BaseException) -> str:
    """Return what lies at the bottom of a chain of exceptions, such as "Connection refused"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
