"""What the scripts that draw the notes' figures share: colours, where files go, tables, digits.

A script `docs/figures/NAME.py` makes the pictures `NAME_*.svg` and the tables `NAME_*` of one
note; NAME is one word. It imports this module before TensorFlow, and ends with `drawing.run(main)`.
runs.py alone draws for the pages of the examples, exampleNN_*.svg.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # so that `datasets`, `examples` and `models` are ours

# What the figures need of the examples' helpers, which set the environment before TensorFlow is
# imported; nothing else in docs/figures imports them.
from examples.helpers import cli  # noqa: E402  # isort: skip

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from datasets import mnist  # noqa: E402

folder = ROOT / "docs"  # run() may choose another one

# Every colour on a light page, and what a dark one has in its place. A picture is drawn in the
# first ones; save() makes variables of them, so that one file serves both pages.
COLOURS = {
    "ink": ("#1f2328", "#e6edf3"),
    "paper": ("#fefefe", "#131416"),  # not quite white: what is white stays so on a dark page
    "grey": ("#6e7781", "#9198a1"),
    "blue": ("#0b6bc2", "#58a6ff"),
    "orange": ("#c4570a", "#f0883e"),
    "green": ("#1a7f37", "#3fb950"),
    "purple": ("#8250df", "#bc8cff"),
}
INK, PAPER, GREY, BLUE, ORANGE, GREEN, PURPLE = (light for light, _ in COLOURS.values())

# Two pictures stand beside each other on a wide page, and one fills the width of a phone, 358
# pixels: this size is never scaled, and no text is smaller than 11 pixels (8.25 points).
SIZE = (3.65, 2.7)
STYLE = {
    "figure.figsize": SIZE,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8.5,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.7,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.color": GREY,
    "lines.markersize": 4,
    "image.interpolation": "none",  # pixels as they are, for the browser to enlarge
    "savefig.dpi": 144,  # of other images: one and a half for each pixel of the page
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE]),
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor"], INK),
    **dict.fromkeys(["xtick.color", "ytick.color", "patch.edgecolor", "hatch.color"], INK),
}


def run(main: Callable[[], None]) -> None:
    """Run a script's main(): the same numbers every time, in the folder --folder."""
    global folder
    parser = argparse.ArgumentParser(description="Draw the figures of a note.")
    parser.add_argument("--folder", type=Path, default=folder, help="where images/ and notes/ are")
    folder = parser.parse_args().folder
    tf.keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    plt.rcParams.update(STYLE)
    cli.run(main)


def panels(count: int, size: tuple[float, float] = SIZE) -> list[plt.Axes]:
    """Return axes, each in a figure of its own, so that they find their places on any page."""
    return [plt.subplots(figsize=size)[1] for _ in range(count)]


def save_panels(axes: Sequence[plt.Axes], name: str) -> None:
    """Write the figures of `panels` as images/NAME_1.svg, images/NAME_2.svg and so on."""
    for number, axis in enumerate(axes, 1):
        save(axis.figure, f"{name}_{number}")


def save(figure: plt.Figure, name: str) -> Path:
    """Write a figure as images/NAME.svg, for light pages and dark ones, close it, and say so.

    What is within a picture is told by `prefers-color-scheme` how the page around it looks.
    """
    path, file = folder / "images" / f"{name}.svg", io.StringIO()
    nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])  # the same file each time
    with plt.rc_context({"svg.hashsalt": "notes"}):  # and the same names in it
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    plt.close(figure)
    light, dark = (
        "".join(f"--{colour}:{pair[i]};" for colour, pair in COLOURS.items()) for i in range(2)
    )
    schemes = f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    svg = file.getvalue()
    for colour, (drawn, _) in COLOURS.items():
        svg = svg.replace(drawn, f"var(--{colour})")
    svg = svg.replace('<style type="text/css">', f'<style type="text/css">{schemes}', 1)
    with cli.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg, encoding="utf-8")
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
