"""Draw the picture at the head of README.md: accuracy by the number of photographs.

    python docs/figures/photographs.py

writes docs/images/photographs_curve.png from docs/results/benchmark_learning_curve.json, which
`python tests/benchmarks/bench_learning_curve.py` has measured.
"""

import json

import drawing
import matplotlib.pyplot as plt
import numpy as np

COLOURS = {"on VGG16's features": "tab:blue", "from scratch": "tab:orange"}
LABELS = {
    "on VGG16's features": "a new top layer on VGG16's convolutions (example 11)",
    "from scratch": "a network from scratch (example 10)",
}


def main() -> None:
    """Draw a line for each way to learn, with the range of the seeds."""
    path = drawing.ROOT / "docs" / "results" / "benchmark_learning_curve.json"
    accuracies = json.loads(path.read_text())["accuracies"]
    figure, axis = plt.subplots(figsize=(8, 4))
    for name, colour in COLOURS.items():
        sizes = np.array([int(size) for size in accuracies[name]])
        values = 100 * np.array(list(accuracies[name].values()))  # (sizes, seeds)
        middle = np.median(values, axis=1)
        axis.fill_between(sizes, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2)
        axis.plot(sizes, middle, "o-", color=colour, label=LABELS[name])
        for size, value in zip(sizes, middle, strict=True):
            axis.annotate(f"{value:.1f}", (size, value), (0, 7), textcoords="offset points",
                          ha="center", fontsize=8, color=colour)  # fmt: skip
    axis.axhline(50, color="grey", linestyle=":", label="a coin")
    axis.set(xscale="log", xlabel="photographs to learn from", ylabel="right of 400, in per cent")
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.set_ylim(45, 103)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    drawing.save(figure, "photographs_curve")


if __name__ == "__main__":
    drawing.run(main)
