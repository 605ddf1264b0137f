"""How files come to be here: by one process at a time, whole or not at all, errors in one line."""

import contextlib
import gzip
import hashlib
import itertools
import os
import shutil
import sys
import tarfile
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, cast

import filelock
import numpy as np
from tqdm import tqdm

CHUNK = 1 << 18  # bytes read at a time


class DataError(Exception):
    """A problem with a data file that the user can mend; str() is one line."""


def wrong(path: Path, problem: object) -> DataError:
    """Return the error for a file whose content is not what it should be."""
    return DataError(f"{path.absolute()} is wrong: {problem}; move it away to get it anew")


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that the system, or a library, cannot read."""
    return DataError(f"cannot read {path.absolute()}: {getattr(error, 'strerror', None) or error}")


def checksum(examples: Iterable[Iterable[np.ndarray]]) -> str:
    """Return twelve hexadecimal digits that change with the content of any of these arrays."""
    whole = hashlib.sha256()
    for array in itertools.chain.from_iterable(examples):
        whole.update(np.ascontiguousarray(array))
    return whole.hexdigest()[:12]


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder; the system frees it if the process is killed."""
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"waiting for another process at work on {path}", file=sys.stderr, flush=True)
            held = lock.acquire()
    except OSError as error:
        raise DataError(f"cannot write to {path.parent.absolute()}: {error.strerror}") from error
    with held:
        yield


def read_bytes(path: Path, size: int, what: str, header: bytes = b"") -> bytes:
    """Read a file of `size` bytes, packed with gzip if it is called .gz, that begin with `header`.

    Raises:
        DataError: the file cannot be read, is damaged, or has other bytes, or fewer or more, than
            `what` takes. No more are unpacked, however many there are.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(size + 1)  # to the end of the file: gzip's own checksum is there
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise wrong(path, f"it is no whole gzip file ({error})") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not content.startswith(header):
        found = content[: len(header)].hex()
        raise wrong(path, f"it begins with {found}, expected {header.hex()} for {what}")
    if len(content) != size:
        found = "more" if len(content) > size else f"{len(content)}"
        raise wrong(path, f"expected {size} bytes for {what}, found {found}")
    return content


def fill(folder: Path, files: Sequence[str], make: Callable[[Path], None]) -> Path:
    """Make the files that a folder lacks, each of them whole, and return the folder.

    Args:
        folder: the folder; it is made if it is missing. Files that it has stay as they are.
        files: the names of what it is to hold.
        make: writes all these files to the empty folder that it is given; it may fail or be killed.

    Raises:
        DataError: the files cannot be written; also what `make` raises.
    """
    temporary = folder.with_name(f"{folder.name}.making")

    def missing() -> list[str]:
        return [file for file in files if not os.path.isfile(folder / file)]

    if not missing() and not os.path.exists(temporary):
        return folder
    with only_process(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
        try:
            if lacking := missing():  # another process may have made them while this one waited
                temporary.mkdir()
                make(temporary)
                folder.mkdir(exist_ok=True)
                for file in lacking:  # first the bytes, then the name, even if the power fails
                    with (temporary / file).open("r+b") as written:
                        os.fsync(written.fileno())
                    os.replace(temporary / file, folder / file)
        except OSError as error:
            raise DataError(f"cannot write {folder.absolute()}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def extract(archive: Path, folder: Path, members: Sequence[str], max_bytes: int) -> Path:
    """Fill a folder with `members`, and nothing else, of a tar.gz archive, and return the folder.

    "cifar-10-batches-bin/test_batch.bin" becomes folder/test_batch.bin. If none is missing, the
    archive is not even opened.

    Raises:
        DataError: the archive is damaged, lacks a member, has a member twice, devices, links that
            lead out, or more than `max_bytes` in all; or the disk is full.
    """

    def make(temporary: Path) -> None:
        bar = {"total": archive.stat().st_size, "desc": f"extracting {archive.name}", "delay": 2}
        try:
            with archive.open("rb") as file, tqdm.wrapattr(file, "read", **bar) as seen:
                _unpack(cast(IO[bytes], seen), members, temporary, max_bytes)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
            problem = (
                f"{textwrap.shorten(str(error), 150)}; move it away to have it downloaded anew"
            )
            raise DataError(f"cannot use the archive {archive.absolute()}: {problem}") from error

    return fill(folder, [PurePosixPath(member).name for member in members], make)


def _unpack(archive: IO[bytes], members: Sequence[str], folder: Path, max_bytes: int) -> None:
    lacking, total = set(members), 0
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            total += entry.size
            if total > max_bytes:
                raise ValueError(f"it unpacks to more than {max_bytes} bytes")
            if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
                tarfile.data_filter(entry, str(folder))
            name = PurePosixPath(entry.name)  # without "./" and "//"
            source = tar.extractfile(entry) if entry.isreg() and str(name) in members else None
            if source:
                with (folder / name.name).open("xb") as output:
                    shutil.copyfileobj(source, output)
                lacking.discard(str(name))
        while stream.read(CHUNK):  # to the end, where the checksum of the whole is
            pass
    if lacking:
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
