"""Draw what recorded runs of the examples came to: learning curves and confusion matrices.

    python docs/figures/runs.py

writes docs/images/exampleNN_*.svg, for the examples' pages, from the files in docs/results/; so
nothing is trained for it. tests/benchmarks/measure_all.py runs it.
"""

import json

import drawing  # isort: skip  # before the rest
from drawing import BLUE, ORANGE, ROOT, plt  # isort: skip

import sys

import numpy as np

sys.path.append(str(ROOT / "docs"))
import results

COLOURS = {"training": BLUE, "validation": ORANGE}


def draw_curves(curves: dict[str, dict[str, list[float]]], name: str) -> None:
    """Draw loss and scores by epoch, a panel each."""
    axes = drawing.panels(len(curves), (3.65, 2.5))
    for axis, (score, parts) in zip(axes, curves.items(), strict=True):
        for part, values in parts.items():
            epochs = range(1, len(values) + 1)
            axis.plot(epochs, values, "o-", markersize=3, color=COLOURS[part], label=part)
        axis.set(xlabel="epoch", ylabel=score.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.figure.legend(loc="outside lower center", ncols=2)
    drawing.save_panels(axes, name)


def draw_matrix(names: list[str], counts: np.ndarray, name: str) -> None:
    """Draw counts (C, C), a row for each true class, on blue by their shares of the row.

    Blue goes by the share's root, so that mistakes are seen, too; at its strongest, the numbers on
    it can be read on a light page and on a dark one.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(3.65, max(1.9, 0.9 + 0.28 * len(names))))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            blue = BLUE, 0.55 * np.sqrt(shares[row, column])
            axis.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fc=blue, ec="none"))
            axis.text(column, row, str(count), ha="center", va="center", fontsize=8.25)
    edges = -0.5, len(names) - 0.5
    axis.set(xlim=edges, ylim=edges[::-1], xlabel="predicted", ylabel="true")
    turned = 45 if max(map(len, names)) > 3 else 0
    axis.set_xticks(range(len(names)), names, rotation=turned, rotation_mode="xtick")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0, labelsize=8.25)
    axis.grid(False)
    drawing.save(figure, name)


def main() -> None:
    """Draw the runs whose output is kept."""
    for text in sorted(results.RESULTS.glob("*.txt")):
        path = text.with_suffix(".json")
        name = path.stem.removesuffix("_default")
        if curves := results.curves_of(json.loads(path.read_text())):
            draw_curves(curves, f"{name}_learning_curves")
        names, rows = results.matrix_of(path)
        if rows:
            draw_matrix(names, np.array(rows), f"{name}_confusion_matrix")


if __name__ == "__main__":
    drawing.run(main)
