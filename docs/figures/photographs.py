"""Draw the picture at the head of README.md: accuracy by the number of photographs.

    python docs/figures/photographs.py

writes docs/images/photographs_curve.svg from docs/results/benchmark_learning_curve.json, which
`python tests/benchmarks/bench_learning_curve.py` has measured.
"""

import json

import drawing
import matplotlib.pyplot as plt
import numpy as np
from drawing import BLUE, GREY, ORANGE

COLOURS = {"on VGG16's features": BLUE, "from scratch": ORANGE}


def main() -> None:
    """Draw a line for each way to learn, with the range of the seeds."""
    plt.rcParams.update({"font.size": 13, "legend.fontsize": 13})  # so wide, it shrinks on a phone
    path = drawing.ROOT / "docs" / "results" / "benchmark_learning_curve.json"
    accuracies = json.loads(path.read_text())["accuracies"]
    figure, axis = plt.subplots(figsize=(5.4, 3.7))
    for name, colour in COLOURS.items():
        sizes = np.array([int(size) for size in accuracies[name]])
        values = 100 * np.array(list(accuracies[name].values()))  # (sizes, seeds)
        middle = np.median(values, axis=1)
        axis.fill_between(sizes, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2)
        axis.plot(sizes, middle, "o-", color=colour, label=name)
        for size, value in zip(sizes, middle, strict=True):
            axis.annotate(f"{value:.1f}", (size, value), (0, 8), textcoords="offset points",
                          ha="center", color=colour)  # fmt: skip
    axis.axhline(50, color=GREY, linestyle=":")
    axis.text(sizes[-1], 50.5, "a coin", color=GREY, ha="right")
    axis.set(xscale="log", xlabel="photographs to learn from", ylabel="right of 400, in per cent")
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.set(xlim=(40, 2000), ylim=(45, 104))
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.17))
    drawing.save(figure, "photographs_curve")


if __name__ == "__main__":
    drawing.run(main)
