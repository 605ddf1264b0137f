"""Files and folders that are written whole or not at all; what keeps them from it in one line."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from models import WeightsError


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what keeps a file from being written, such as a full disk, into a WeightsError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:  # TensorFlow wraps the system's errors
        line = str(error).partition("\n")[0][-150:]  # TensorFlow names the path first, then why
        reason = getattr(error, "strerror", None) or line
        raise WeightsError(f"cannot write {path}: {reason}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write a file or folder under; when it is whole, rename it: a kill is safe."""
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # a folder that a kill has left behind
        yield part
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
