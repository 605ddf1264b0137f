"""What a run leaves behind: metrics.json, and pictures a person wants to look at.

`images` are uint8 or float from 0 to 1, (N, H, W, C); `labels` the true classes, integers (N,);
`probabilities`, or `shares`, float (N, classes).
"""

import csv
import json
import platform
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from numpy import ndarray as Array  # noqa: N812

from examples.helpers import STARTED
from examples.helpers.cli import UserError, replacing, shown, writing
from examples.helpers.device import cores, processor


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file; a kill leaves the old one or the new one, never half of one."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def origin(name: str, argv: Sequence[str]) -> dict:
    """Return where an example's result comes from: time until now, command, versions, machine."""
    python, libraries = platform.python_version(), {m.__name__: m.__version__ for m in (tf, np)}
    return {
        "total_seconds": round(time.perf_counter() - STARTED, 1),
        "command": shlex.join(["python", f"examples/{name}.py", *argv]),
        "versions": {"python": python, **libraries},
        "machine": {
            "processor": processor().get("model name", platform.processor()),
            "cores": cores(),
            "gpu": bool(tf.config.list_physical_devices("GPU")),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def finish(
    folder: Path, metrics: dict, files: list, argv: Any, minimum: float | None, score: str = ""
) -> dict:
    """Write metrics.json, print the result and what was written, and check the `minimum`.

    `folder` is models/<script name>; `metrics` has `train_seconds`, `data` and the `score`, else
    `test_accuracy`; `files` were written before; `argv` is main()'s. Returns metrics and `origin`.
    """
    metrics = metrics | origin(folder.name, sys.argv[1:] if argv is None else argv)
    write_json(folder / "metrics.json", metrics)
    score, accuracy = score or "test accuracy", metrics[score or "test_accuracy"]
    print(f"{score} {accuracy:.4f} on {metrics['data']}")
    print(f"{metrics['train_seconds']:.0f} s of training, {metrics['total_seconds']:.0f} s in all")
    print(*(f"wrote {shown(path)}" for path in (folder / "metrics.json", *files)), sep="\n")
    if minimum is not None and accuracy < minimum:
        raise UserError(f"{score} {accuracy:.4f} is below --min-accuracy {minimum}")
    return metrics


def show_answer(image: Array, probabilities: Array, names: Sequence[str], folder: Path) -> dict:
    """Print the likeliest classes of a picture, and draw what the network was given to see."""
    for index in np.argsort(-probabilities)[:5].tolist():
        print(f"{probabilities[index]:8.2%}  {names[index]}")
    answer = names[int(probabilities.argmax())]
    title = f"{probabilities.max():.0%} {answer}"
    print("wrote", shown(plot_images(image[None], folder / "picture.png", title, (), 1, 1.8)))
    return {"answer": answer, "probabilities": probabilities.tolist()}


def save_figure(figure: plt.Figure, path: Path) -> Path:
    """Write a matplotlib figure as PNG, close it, and return the path."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    return path


def plot_learning_curves(folder: Path, title: str, history: dict[str, list[float]]) -> Path:
    """Plot loss and score by epoch, of training and validation, as far as they are known."""
    names = list(dict.fromkeys(n.removeprefix("validation_") for n in history if n != "seconds"))
    figure, axes = plt.subplots(1, len(names), figsize=(10, 3.6), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        for label, key in (("training", name), ("validation", f"validation_{name}")):
            if values := history.get(key):
                axis.plot(range(1, len(values) + 1), values, "o-", label=label)
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return save_figure(figure, folder / "learning_curves.png")


def plot_results(
    folder: Path, title: str, history: dict, images: Array, labels: Array, shares: Array, names: Any
) -> list[Path]:
    """Draw learning curves, if there is a `history`, the confusion matrix, the surest mistakes."""
    from sklearn import metrics  # here, since importing it takes a second

    files = [plot_learning_curves(folder, title, history)] if history else []
    answers, certainty = shares.argmax(axis=1), shares.max(axis=1)
    figure, axis = plt.subplots(figsize=(7, 6))
    matrix = metrics.confusion_matrix(labels, answers, labels=range(len(names)))
    display = metrics.ConfusionMatrixDisplay(matrix, display_labels=names)
    display.plot(ax=axis, cmap="Blues", colorbar=False, xticks_rotation=45)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    files.append(save_figure(figure, folder / "confusion_matrix.png"))
    with writing(page := folder / "confusion_matrix.csv"), page.open("w", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *matrix])
    wrong = [i for i in np.argsort(-certainty, kind="stable") if answers[i] != labels[i]][:32]
    gap = " " if max(map(len, names)) < 7 else "\n"  # so that four captions have room in a row
    captions = [f"{names[answers[i]]}{gap}{certainty[i]:.0%}\nis {names[labels[i]]}" for i in wrong]
    page, title = folder / "worst_mistakes.png", f"{title}: the worst mistakes"
    return [*files, plot_images(images[wrong], page, title, captions)]


def plot_images(
    images: Any, path: Path, title: str, captions: Any = (), columns: int = 4, inch: float = 0.91
) -> Path:
    """Show images in rows of `columns`, of so many inches, each below its caption."""
    # Four are as wide as a phone, where letters of 8.25 points have 11 pixels.
    rows, fill = max(1, -(-len(images) // columns)), textwrap.TextWrapper(int(14.5 * inch)).fill
    size = columns * inch, rows * (inch + 1.2)  # "compressed" takes away what is not needed
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    plt.setp(axes, frame_on=False, xticks=[], yticks=[])
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image, cmap="gray")
    for axis, caption in zip(axes.flat, captions, strict=False):
        axis.set_title("\n".join(map(fill, caption.split("\n"))), fontsize=8.25, pad=2)
    figure.suptitle(textwrap.fill(title, int(13 * columns * inch)), fontsize=9)
    return save_figure(figure, path)
