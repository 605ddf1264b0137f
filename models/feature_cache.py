"""Features of a fixed network, computed once for each image and kept on disk.

While a layer stays fixed, what it makes of an image never changes. So it is computed once, written
down, and read again in every epoch and every later run. Features lie in shards of 100 images:

    <folder>/<what they were made by>/description.json
    <folder>/<what they were made by>/<what they were made from>.npy     float16 (100, ...)

Both names are checksums: the folder's of the description (the network's weights, the
preprocessing, the arithmetic), the shard's of the images in it. So features of another network, of
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
        count: how many rows there are to be; at most those of all shards.
    """

    def __init__(self, shards: Sequence[np.ndarray], count: int):
        self._shards, self._count = shards, count

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the rows of a slice, or those with the given numbers, float16 (n, ...)."""
        numbers = np.arange(self._count)[rows]
        return np.stack([self._shards[i // SHARD][i % SHARD] for i in numbers])


def cached_features(
    folder: Path,
    description: dict,
    extract: Callable[[Sequence], np.ndarray],
    images: Sequence,
    count: int,
    shape: tuple[int, ...],
    batch_size: int,
    title: str,
    identify: Callable[[Sequence], np.ndarray | bytes] = np.ascontiguousarray,
) -> Features:
    """Return the features of the first `count` images, computing only what is not on disk.

    Whole shards are computed, so up to 99 images more than `count`: a later call with a larger
    count finds them. A shard appears under its name only when it is complete; a run that is killed
    goes on at the next missing one.

    Args:
        folder: where the features of all networks lie.
        description: everything that the features depend on, but the images; goes into JSON.
        extract: takes some of the images, returns their features, (n, *shape).
        images: uint8 (N, H, W, C), or whatever else has slices that `extract` takes.
        count: how many of the images; at most N.
        shape: of the features of an image.
        batch_size: images given to `extract` at once.
        title: of the progress bar.
        identify: takes some of the images, returns bytes that differ when the images do.

    Raises:
        WeightsError: a feature is not a finite number that float16 can hold (at most 65,504).
    """
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "description.json", text.encode())

    parts = [images[start : start + SHARD] for start in range(0, count, SHARD)]
    paths = [folder / f"{hashlib.sha256(identify(part)).hexdigest()[:32]}.npy" for part in parts]
    shapes = [(len(part), *shape) for part in parts]
    shards = [_read(path, expected) for path, expected in zip(paths, shapes, strict=True)]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    todo, total = sum(len(parts[number]) for number in missing), sum(map(len, parts))
    with tqdm(
        total=total, initial=total - todo, desc=title, unit=" images", leave=False, disable=not todo
    ) as progress:
        for number in missing:
            shard = np.empty(shapes[number], np.float16)
            for i in range(0, len(shard), batch_size):
                batch = extract(parts[number][i : i + batch_size])
                shard[i : i + len(batch)] = batch
                progress.update(len(batch))
            if not np.isfinite(shard).all():
                raise WeightsError(
                    f"{title}: features are not finite, or too large for float16; "
                    "these weights do not fit"
                )
            _write(paths[number], shard)
            shards[number] = np.load(paths[number], mmap_mode="r")
    return Features(shards, count)


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a shard that stays on disk, or None where there is none that is whole."""
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # NumPy raises a dozen kinds of errors for a file that is damaged
        return None
    return shard if shard.shape == shape and shard.dtype == np.float16 else None


def _write(path: Path, content: np.ndarray | bytes) -> None:
    """Write beside and rename, so that a file is whole as soon as it bears its name."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            np.save(file, content, allow_pickle=False)
    os.replace(part, path)
