"""Photographs in a folder or a zip archive, in fixed parts; what cannot be read is left out.

Each file is decoded once, before anything is trained on it. Those that fail are listed in a report.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets import pictures
from datasets.files import DataError, unreadable, wrong

TEST_SHARE = 5  # one photograph in five of a class is for the test
VALIDATION_SHARE = 10  # one in ten of the others is held back for validation
LEAST = 5  # photographs of a class with which it can be split at all
MAX_BYTES = 50_000_000  # of a file: one in an archive may unpack to anything

# What zipfile raises for archives that are damaged, or packed or encrypted in a way it lacks. A
# ValueError comes from names that are no UTF-8.
_DAMAGED = RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile


class Photograph(NamedTuple):
    """A photograph by its name in the folder or the archive."""

    name: str
    label: int  # index into class_names


class Files:
    """The files of a folder, at any depth, or of a zip archive; threads may read them at once.

    `names` are in alphabetical order, with "/" between folder and file. `own` says that the user
    has made the archive, and cannot get it anew.

    Raises:
        DataError: there is no such folder, or no archive, or it cannot be read.
    """

    def __init__(self, path: Path, own: bool = False):
        path = path.expanduser()
        self.path, self.archive = path, None
        try:
            if path.is_dir():
                files = (file for file in path.rglob("*") if file.is_file())
                self.names = sorted(file.relative_to(path).as_posix() for file in files)
            else:
                self.archive = zipfile.ZipFile(path)
                self.names = sorted(n for n in self.archive.namelist() if not n.endswith("/"))
        except _DAMAGED as error:
            problem = ValueError(f"it is no whole zip archive ({error})")
            raise (unreadable if own else wrong)(path, problem) from error
        except OSError as error:
            raise unreadable(path, error) from error

    def read(self, name: str) -> bytes:
        """Return what is in a file; DataError if it is damaged, too large, or no longer there."""
        try:
            if self.state(name)[0] > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
            return self.archive.read(name) if self.archive else (self.path / name).read_bytes()
        except (OSError, *_DAMAGED) as error:
            raise unreadable(self.path / name, error) from error

    def checksum(self, name: str) -> int:
        """Return the CRC-32 of a file; an archive has it in its directory."""
        return self.archive.getinfo(name).CRC if self.archive else zlib.crc32(self.read(name))

    def state(self, name: str) -> tuple[int, int]:
        """Return a file's size in bytes, and what changes with its content: checksum or time."""
        if self.archive:
            return self.archive.getinfo(name).file_size, self.checksum(name)
        stat = (self.path / name).stat()
        return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs of some classes in three fixed parts."""

    name: str  # what the data is called wherever it shows
    class_names: tuple[str, ...]
    files: Files
    train: tuple[Photograph, ...]  # to train on, the classes mixed
    validation: tuple[Photograph, ...]  # to make choices by
    test: tuple[Photograph, ...]  # to use once, at the end
    left_out: dict[str, str]  # why a file is not among them, by its name
    report: Path  # the file that lists what is left out

    def summary(self, train: int) -> str:
        """Describe the data in one line, of which so many photographs are used to train on."""
        counts = f"{train:,} training, {len(self.validation):,} validation, {len(self.test):,} test"
        return f"{self.name}: {counts}; {len(self.left_out):,} files left out ({self.report})"

    def read(self, photograph: Photograph) -> bytes:
        """Return the file, for `pictures.decode`; DataError if it is no longer there."""
        return self.files.read(photograph.name)

    def checksum(self, photograph: Photograph) -> int:
        """Return the CRC-32 of the file."""
        return self.files.checksum(photograph.name)

    def identify(self, chosen: Sequence[Photograph]) -> bytes:
        """Return what changes with the content of some photographs, for stored features."""
        return repr([self.checksum(photograph) for photograph in chosen]).encode()


def read_photographs(data: Photographs, chosen: Sequence[Photograph], size: int) -> np.ndarray:
    """Read some photographs of a data set, np.uint8 (N, size, size, 3)."""
    return np.array(
        [pictures.squared(pictures.decode(data.read(photograph)), size) for photograph in chosen]
    )


def load(path: Path, report: Path, validation_share: int = VALIDATION_SHARE) -> Photographs:
    """Find one's own photographs: a folder, or a zip archive, with a sub-folder for each class.

    They may lie at any depth in the sub-folder, in every format that Pillow reads. Of each class,
    one in five is for the test, and of the others one in `validation_share`, at least one, for
    validation. Which ones they are depends on nothing but the names of that class's files.

    Args:
        path: the folder or the archive. In an archive, all may lie in one more folder.
        report: the file to list in what is left out.
        validation_share: see above.

    Raises:
        DataError: there is no such folder; or less than two classes, or one with too few
            photographs that can be read, which is named.
    """
    files = Files(path, own=True)
    names = [name for name in files.names if not hidden(name)]
    tops = {name.partition("/")[0] for name in names}
    skipped = len(tops) == 1 and files.archive and all(name.count("/") > 1 for name in names)
    depth = 1 if skipped else 0
    classes = {n.split("/")[depth] for n in names if n.count("/") > depth}
    if files.path.is_dir():  # one without any file is a class, too: it shall be named
        classes |= {p.name for p in files.path.iterdir() if p.is_dir() and not hidden(p.name)}
    class_names = tuple(sorted(classes))

    def problem(name: str) -> str:
        return "" if name.count("/") > depth else "it lies in no sub-folder"

    left_out = check(files, names, problem, report)
    of_class: dict[str, list[str]] = {name: [] for name in class_names}
    for name in set(names) - left_out.keys():
        of_class[name.split("/")[depth]].append(name)
    few = [f"{name!r} has {len(found)}" for name, found in of_class.items() if len(found) < LEAST]
    if len(classes) < 2:
        few = [f"there is only {name!r}" for name in class_names] or ["there is none"]
    if few:
        need = f"it takes two sub-folders of {LEAST} photographs at least, better 20, one a class"
        reasons = collections.Counter(left_out.values()).most_common(1)
        often = f", most of them since {reasons[0][0]}; {report} lists them" if reasons else ""
        counts = f"{len(names):,} files found, {len(left_out):,} left out{often}"
        raise DataError(f"{path}: {need}; {', '.join(few)} ({counts})")
    parts: list[list[Photograph]] = [[], [], []]
    for label, found in enumerate(of_class.values()):
        for part, some in zip(parts, split(found, validation_share), strict=True):
            part.extend(Photograph(name, label) for name in some)
    train, validation, test = (tuple(sorted(p, key=lambda each: _mixed(each.name))) for p in parts)
    count = sum(map(len, parts))
    shown = ", ".join(class_names[:5]) + (" and more" if len(class_names) > 5 else "")
    name = f"{count:,} photographs of {shown}"
    return Photographs(name, class_names, files, train, validation, test, left_out, report)


def load_pictures(path: Path, reports: Path) -> Photographs:
    """Find all pictures of a folder, or a zip archive, at any depth; they are of one class.

    Args:
        path: the folder or the archive.
        reports: the folder for a list of what is left out.

    Raises:
        DataError: there is no such folder, or no picture in it that can be read.
    """
    files, report = Files(path, own=True), reports / f"{path.resolve().name}.pictures.json"
    names = [name for name in files.names if not hidden(name)]
    left_out = check(files, names, lambda _: "", report)
    found = tuple(Photograph(name, 0) for name in names if name not in left_out)
    if not found:
        counts = f"{len(names):,} files found, {len(left_out):,} left out, listed in {report}"
        raise DataError(f"{path.absolute()} has no picture that can be read ({counts})")
    name = f"{len(found):,} pictures"
    return Photographs(name, (path.name,), files, found, (), (), left_out, report)


def split(
    names: Iterable[str], validation_share: int = VALIDATION_SHARE
) -> tuple[list[str], list[str], list[str]]:
    """Split names, by their checksums, into those for training, for validation and for the test."""
    mixed = sorted(names, key=_mixed)
    tested = len(mixed) // TEST_SHARE
    cut = tested + max(1, (len(mixed) - tested) // validation_share)
    return mixed[cut:], mixed[tested:cut], mixed[:tested]


def hidden(name: str) -> bool:
    """Tell whether a file is one of those that systems leave behind, such as ._NAME of macOS."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _mixed(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def check(
    files: Files,
    names: Sequence[str],
    problem: Callable[[str], str],
    report: Path,
    known: dict[str, str] | None = None,
) -> dict[str, str]:
    """Return why files are left out, by name; from the report, if these files have not changed.

    Args:
        files: where they are.
        names: those to check.
        problem: says what is wrong with a name: nothing, if it is right.
        report: the file to write, and to read again the next time.
        known: why other files, or parts of files, are left out: it is listed, too.
    """
    state = [(name, problem(name), files.state(name)) for name in names]
    code = b"".join(Path(str(module)).read_bytes() for module in (__file__, pictures.__file__))
    about = hashlib.sha256(repr((state, known)).encode() + code).hexdigest()
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        before = json.loads(report.read_text())
        if before["about"] == about:
            return dict(before["left_out"])
    # Decoding releases Python's lock, so that threads are enough to use all cores.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found: Iterable[str] = pool.map(lambda n: problem(n) or _fault(files, n), names)
        bar = tqdm(found, f"checking {files.path.name}", len(names), leave=False, delay=2)
        left_out = {name: fault for name, fault in zip(names, bar, strict=True) if fault}
    left_out |= known or {}
    content = {"left_out_count": len(left_out), "left_out": left_out, "about": about}
    with contextlib.suppress(OSError):  # a read-only folder: then check every time
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(content, indent=2) + "\n")
    return left_out


def _fault(files: Files, name: str) -> str:
    """Say why a file is no picture: nothing, if it is one."""
    try:
        pictures.decode(files.read(name), enough=1)  # a JPEG file at an eighth: all bytes are read
    except (DataError, ValueError) as error:  # in a third of the time
        return str(error)
    return ""
