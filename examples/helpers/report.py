"""What a run leaves behind: metrics.json, and pictures a person wants to look at.

In the pictures, `images` are uint8 or float from 0 to 1, (N, H, W, C); `labels` are the true
classes, integers (N,); `probabilities` are float (N, classes) and each row sums to 1.
"""

import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from examples.helpers import STARTED
from examples.helpers.cli import UserError, replacing, shown, writing
from examples.helpers.device import cores, processor


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file so that a kill leaves the old file or the new one, never half of one."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def origin(script: str, argv: Sequence[str]) -> dict:
    """Return where a result comes from: the time until now, the command, the machine."""
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__}
    return {
        "total_seconds": round(time.perf_counter() - STARTED, 1),
        "command": shlex.join(["python", f"examples/{Path(script).name}", *argv]),
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "processor": processor().get("model name", platform.processor()),
            "cores": cores(),
            "gpu": bool(tf.config.list_physical_devices("GPU")),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def finish(
    folder: Path,
    metrics: dict,
    files: Sequence[Path],
    script: str,
    argv: Sequence[str] | None,
    min_accuracy: float | None,
) -> dict:
    """Write metrics.json, print the result and what was written, and check --min-accuracy.

    `metrics` are the example's figures, among them `test_accuracy`, `train_seconds` and `data`;
    `files` what else it has written; `script` its `__file__`; `argv` the arguments given to main(),
    None for those of the command line. Returned are the metrics, with the time in all, the command,
    the versions and the machine.
    """
    metrics = metrics | origin(script, sys.argv[1:] if argv is None else argv)
    write_json(folder / "metrics.json", metrics)
    accuracy = metrics["test_accuracy"]
    print(f"test accuracy {accuracy:.4f} on {metrics['data']}")
    print(f"{metrics['train_seconds']:.0f} s of training, {metrics['total_seconds']:.0f} s in all")
    for path in [folder / "metrics.json", *files]:
        print("wrote", shown(path))
    if min_accuracy is not None and accuracy < min_accuracy:
        raise UserError(f"test accuracy {accuracy:.4f} is below --min-accuracy {min_accuracy}")
    return metrics


def print_likeliest(probabilities: np.ndarray, names: Sequence[str]) -> None:
    """Print the five classes with the largest probabilities, float (classes,)."""
    for index in np.argsort(-probabilities)[:5]:
        print(f"{probabilities[index]:8.2%}  {names[index]}")


def show_digit(image: np.ndarray, probabilities: np.ndarray, folder: Path) -> dict:
    """Print which digits a picture may show, and draw what the network was given to see of it.

    Returned are the likeliest `digit` and the `probabilities` of all ten, float (10,).
    """
    print_likeliest(probabilities, "0123456789")
    digit = int(probabilities.argmax())
    title = f"{probabilities[digit]:.0%} {digit}"
    print("wrote", shown(plot_images(image[None], folder / "picture.png", title, columns=1)))
    return {"digit": digit, "probabilities": probabilities.tolist()}


def save_figure(figure: plt.Figure, path: Path) -> Path:
    """Write a matplotlib figure as PNG, close it, and return the path."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


def plot_results(
    folder: Path,
    title: str,
    history: dict[str, list[float]],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
) -> list[Path]:
    """Draw learning curves, confusion matrix and worst mistakes to `folder`; return the paths."""
    return [
        plot_learning_curves(folder, title, history),
        plot_confusion_matrix(folder, title, labels, probabilities, names),
        plot_worst_mistakes(folder, title, images, labels, probabilities, names),
    ]


def plot_learning_curves(folder: Path, title: str, history: dict[str, list[float]]) -> Path:
    """Plot loss and accuracy by epoch, of training and validation."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for key, style in ((name, "o-"), (f"validation_{name}", "s--")):
            label = "training" if key == name else "validation"
            axis.plot(range(1, len(history[key]) + 1), history[key], style, label=label)
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return save_figure(figure, folder / "learning_curves.png")


def plot_confusion_matrix(
    folder: Path, title: str, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> Path:
    """Plot how many images of each true class (row) were taken for each class (column)."""
    from sklearn import metrics  # here, since importing it takes a second

    figure, axis = plt.subplots(figsize=(7, 6))
    predictions = probabilities.argmax(axis=1)
    matrix = metrics.confusion_matrix(labels, predictions, labels=range(len(names)))
    display = metrics.ConfusionMatrixDisplay(matrix, display_labels=names)
    display.plot(ax=axis, cmap="Blues", colorbar=False, xticks_rotation=45)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    return save_figure(figure, folder / "confusion_matrix.png")


def plot_worst_mistakes(
    folder: Path,
    title: str,
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
) -> Path:
    """Show the wrongly classified images of which the network was most certain."""
    predictions, certainty = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    wrong = wrong[np.argsort(-certainty[wrong], kind="stable")][:32]
    captions = [f"{names[predictions[i]]} {certainty[i]:.0%}\nis {names[labels[i]]}" for i in wrong]
    path = folder / "worst_mistakes.png"
    return plot_images(images[wrong], path, f"{title}: the worst mistakes", captions)


def plot_images(
    images: np.ndarray, path: Path, title: str, captions: Sequence[str] = (), columns: int = 8
) -> Path:
    """Show images in rows of `columns`, each below its caption."""
    rows = max(1, -(-len(images) // columns))
    size = (columns * 1.2, rows * (1.5 if captions else 1.05) + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image, cmap="gray", interpolation="nearest")
    for axis, caption in zip(axes.flat, captions, strict=False):
        axis.set_title(caption, fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    return save_figure(figure, path)
