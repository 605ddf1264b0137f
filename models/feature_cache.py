"""Features of a fixed network, computed once for each image and kept on disk.

While a layer stays fixed, what it makes of an image never changes. So it is computed once, written
down, and read again in every epoch and every later run. Features lie in shards of 100 images:

    <folder>/<what they were made by>/description.json
    <folder>/<what they were made by>/<what they were made from>.npy     float16 (100, features)

Both names are checksums: the folder's of the description (the network's weights, the
preprocessing, the arithmetic), the shard's of the images in it. So features of another network, of
other images, or of images prepared otherwise have another name and are never taken for these.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models import WeightsError

SHARD = 100  # images; what a kill loses at most


def cached_features(
    folder: Path,
    description: dict,
    extract: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    count: int,
    size: int,
    batch_size: int,
    title: str,
) -> np.ndarray:
    """Return the features of the first `count` images, computing only what is not on disk.

    Whole shards are computed, so up to 99 images more than `count`: a later call with a larger
    count finds them. A shard appears under its name only when it is complete; a run that is killed
    goes on at the next missing one.

    Args:
        folder: where the features of all networks lie.
        description: everything that the features depend on, but the images; goes into JSON.
        extract: takes images (n, H, W, C), returns features (n, size).
        images: uint8 (N, H, W, C).
        count: how many of the images; at most N.
        size: features of an image.
        batch_size: images given to `extract` at once.
        title: of the progress bar.

    Returns:
        float16 (count, size).

    Raises:
        WeightsError: a feature is not a finite number that float16 can hold (at most 65,504).
    """
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "description.json", text.encode())

    starts = range(0, count, SHARD)
    parts = [images[start : start + SHARD] for start in starts]
    paths = [
        folder / f"{hashlib.sha256(np.ascontiguousarray(p)).hexdigest()[:32]}.npy" for p in parts
    ]
    features = np.empty((sum(map(len, parts)), size), np.float16)
    missing = []
    for start, part, path in zip(starts, parts, paths, strict=True):
        shard = _read(path, (len(part), size))
        if shard is None:
            missing.append((start, part, path))
        else:
            features[start : start + len(part)] = shard
    if missing:
        todo = sum(len(part) for _, part, _ in missing)
        done = len(features) - todo
        progress = tqdm(total=len(features), initial=done, desc=title, unit=" images", leave=False)
        with progress:
            for start, part, path in missing:
                for i in range(0, len(part), batch_size):
                    batch = extract(part[i : i + batch_size])
                    features[start + i : start + i + len(batch)] = batch
                    progress.update(len(batch))
                shard = features[start : start + len(part)]
                if not np.isfinite(shard).all():
                    raise WeightsError(
                        f"{title}: features are not finite, or too large for float16; "
                        "these weights do not fit"
                    )
                _write(path, shard)
    return features[:count]


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return a shard, or None where there is none that is whole."""
    try:
        shard = np.load(path, allow_pickle=False)
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
