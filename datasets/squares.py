"""Photographs as squares of one size, as many networks take them, whatever their own shape.

What is squeezed is still a cat, while one whose ears are cut off is harder to tell.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.files import DataError
from datasets.photographs import Photograph, Photographs
from datasets.pictures import decode, read_picture


def squared(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image, np.uint8 (H, W, 3), to (size, size, 3)."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def read_photographs(data: Photographs, chosen: Sequence[Photograph], size: int) -> np.ndarray:
    """Read some photographs of a data set, np.uint8 (N, size, size, 3)."""
    return np.array([squared(decode(data.read(photograph)), size) for photograph in chosen])


def read_pictures(path: Path, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the user's own pictures, np.uint8 (size, size, 3), those of a folder or a single one.

    Before each comes the name of its file without the ending; with it, and with its sub-folders,
    where another picture would have the same name. In a folder, "2" comes before "10"; what cannot
    be read is named and left out.

    Raises:
        DataError: there is no such path, or no picture that can be read.
    """
    path = path.expanduser()
    if not path.is_dir():
        yield path.stem, squared(read_picture(path), size)
        return
    files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
    files.sort(key=lambda file: (len(file.stem), file.stem, file))
    stems, count = [file.stem for file in files], 0
    for file in tqdm(files, "pictures", leave=False, delay=2):
        try:
            picture = squared(read_picture(file), size)
        except DataError as error:
            tqdm.write(f"left out: {error}")
            continue
        count += 1
        alone = stems.count(file.stem) == 1
        name = file.stem if alone else file.relative_to(path).as_posix()
        yield name.encode("utf-8", "backslashreplace").decode(), picture
    if not count:
        raise DataError(f"there is no picture that can be read in {path}")
