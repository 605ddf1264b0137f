"""Features of a fixed network, computed once for each image and kept on disk.

While a layer stays fixed, what it makes of an image never changes. So it is computed once, written
down, and read again in every epoch and every later run. Features lie in shards of 100 images:

    <folder>/<what they were made by>/source.json
    <folder>/<what they were made by>/<what they were made from>.npy     float16 (100, ...)

Both names are checksums: the folder's of the source (the network's weights, the arithmetic, the
version of the code), the shard's of the images in it. So features of another network, of
other images, or of images prepared otherwise have another name and are never taken for these.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models import WeightsError

SHARD = 100  # images; what a kill loses at most


class Features:
    """Shards on disk that look like one array; only what is asked for comes into memory.

    Args:
        shards: float16 (SHARD, ...), the last one of any length.
    """

    def __init__(self, shards: Sequence[np.ndarray]):
        self._shards = shards

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self._shards))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the rows of a slice, or those with the given numbers, float16 (n, ...)."""
        numbers = np.arange(len(self))[rows]
        return np.stack([self._shards[i // SHARD][i % SHARD] for i in numbers])


def cached_features(
    folder: Path,
    source: dict,
    extract: Callable[[Sequence], np.ndarray],
    images: Sequence,
    batch_size: int,
    title: str,
    identify: Callable[[Sequence], np.ndarray | bytes] = np.ascontiguousarray,
) -> Features:
    """Return the features of images, computing only what is not on disk.

    A shard appears under its name only when it is complete; a run that is killed goes on at the
    next missing one.

    Args:
        folder: where the features of all networks lie.
        source: everything that the features depend on, but the images; goes into JSON.
        extract: takes some of the images, returns their features, (n, ...).
        images: uint8 (N, H, W, C), or whatever else has slices that `extract` takes.
        batch_size: images given to `extract` at once.
        title: of the progress bar.
        identify: takes some of the images, returns bytes that differ when the images do.

    Raises:
        WeightsError: a feature is not a finite number that float16 can hold (at most 65,504), or
            the features cannot be written.
    """
    text = json.dumps(source, indent=2, sort_keys=True) + "\n"
    folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    _write(folder / "source.json", text.encode())

    parts = [images[start : start + SHARD] for start in range(0, len(images), SHARD)]
    paths = [folder / f"{hashlib.sha256(identify(part)).hexdigest()[:32]}.npy" for part in parts]
    shards = [_read(path, len(part)) for path, part in zip(paths, parts, strict=True)]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    done = len(images) - sum(len(parts[number]) for number in missing)
    with tqdm(
        total=len(images), initial=done, desc=title, leave=False, disable=not missing
    ) as progress:
        for number in missing:
            batches = []
            for i in range(0, len(parts[number]), batch_size):
                batches.append(extract(parts[number][i : i + batch_size]))
                progress.update(len(batches[-1]))
            shard = np.concatenate(batches).astype(np.float16)
            if not np.isfinite(shard).all():
                raise WeightsError(
                    f"{title}: features are not finite, or too large for float16; "
                    "these weights do not fit"
                )
            _write(paths[number], shard)
            shards[number] = np.load(paths[number], mmap_mode="r")
    return Features([shard for shard in shards if shard is not None])


def _read(path: Path, count: int) -> np.ndarray | None:
    """Return a shard that stays on disk, or None where there is none that is whole."""
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
        whole = len(shard) == count and shard.offset + shard.nbytes == path.stat().st_size
    except Exception:  # NumPy raises a dozen kinds of errors for a file that is damaged
        return None
    return shard if whole and shard.dtype == np.float16 else None


def _write(path: Path, content: np.ndarray | bytes) -> None:
    """Write beside and rename, so that a file is whole as soon as it bears its name."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                np.save(file, content, allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
