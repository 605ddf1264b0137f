"""What the scripts that draw the notes' figures share: where files go, tables, small digits.

A script `docs/figures/NAME.py` makes the pictures `NAME_*.png` and the tables `NAME_*.md` of one
note; NAME is one word. It imports this module before TensorFlow, and ends with `drawing.run(main)`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # so that `datasets`, `examples` and `models` are ours

# What the figures need of the examples' helpers, which set the environment before TensorFlow is
# imported; nothing else in docs/figures imports them.
from examples.helpers import cli, report  # noqa: E402  # isort: skip

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from datasets import mnist  # noqa: E402

folder = ROOT / "docs"  # run() may choose another one


def run(main: Callable[[], None]) -> None:
    """Run a script's main(): the same numbers every time, in the folder --folder."""
    global folder
    parser = argparse.ArgumentParser(description="Draw the figures of a note.")
    parser.add_argument("--folder", type=Path, default=folder, help="where images/ and notes/ are")
    folder = parser.parse_args().folder
    tf.keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    cli.run(main)


def save(figure: plt.Figure, name: str) -> Path:
    """Write a figure as images/NAME.png, close it, and say so."""
    path = report.save_figure(figure, folder / "images" / f"{name}.png")
    print("wrote", cli.shown(path))
    return path


def table(header: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; `align` has "l" or "r" for each column."""
    dashes = ["---:" if letter == "r" else "---" for letter in align]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, dashes, *rows])


def write(text: str, name: str) -> Path:
    """Put Markdown between the two comments of this name that a note has, and say so."""
    begin = f"<!-- {name}: made by docs/figures/{name.partition('_')[0]}.py -->\n"
    end = f"<!-- end of {name} -->"
    (path,) = (p for p in (folder / "notes").glob("*.md") if begin in p.read_text())
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{rest.partition(end)[2]}")
    print("wrote", cli.shown(path))
    return path


def small_digits() -> tuple[np.ndarray, ...]:
    """Return sample data: float32 images (N, 196), mean 0, variance 1, and labels, twice.

    To be quick, 2 x 2 pixels are averaged. Training images come first, then those for validation.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = mnist.load("sample", Path(folder))
    arrays = []
    for images, labels in (
        (data.train_images, data.train_labels),
        (data.validation_images, data.validation_labels),
    ):
        images = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
        arrays += [images.astype(np.float32), labels]
    mean, deviation = arrays[0].mean(), arrays[0].std()
    return (arrays[0] - mean) / deviation, arrays[1], (arrays[2] - mean) / deviation, arrays[3]
