"""What every example needs and none teaches: flags, device, metrics.json, standard pictures.

The network, the loss, the training loop and the evaluation of an example stand in its own file.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

STARTED = (
    time.perf_counter()
)  # total_seconds counts from here, TensorFlow's start-up included

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Close file descriptor 2 for a moment: TensorFlow's C++ side chatters while it is imported."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# A notebook's kernel has been started with flags of its own, which are none of ours.
if Path(sys.argv[0]).name == "ipykernel_launcher.py":
    sys.argv = sys.argv[:1]

# Importing takes seconds, and there is nothing to save yet: Ctrl-C ends the program on the spot.
_before = signal.getsignal(signal.SIGINT)
if _before == signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
with silent_stderr():
    import tensorflow as tf
tf.get_logger().setLevel(
    "ERROR"
)  # what the user must know, the examples say themselves

import matplotlib

matplotlib.use("Agg")  # pictures go to files; no screen is needed
import matplotlib.pyplot as plt
import numpy as np

from datasets.dataset import Dataset
from datasets.download import DataError
from models import WeightsError

signal.signal(signal.SIGINT, _before)

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_VGG16_IMAGES = 6000  # drawn to train the sample VGG16 on


class UserError(Exception):
    """Something the user can mend; its text is one line that says what, where and what to do."""


# %% Flags


def number(kind: type, least: float, most: float) -> Callable[[str], float]:
    """Make a parser of numbers from `least` to `most`, for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text} is not from {least:g} to {most:g}"
            )
        return value

    parse.__name__ = (
        kind.__name__
    )  # argparse names it where the text is no number at all
    return parse


positive_int = number(int, 1, 2**31 - 1)
seed_number = number(int, 0, 2**31 - 1)
positive_float = number(float, 1e-45, 3e38)  # what float32 can hold


def make_parser(
    docstring: str,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> argparse.ArgumentParser:
    """Make a parser with the flags that all examples share; the numbers are its defaults.

    Without `epochs` it has no flags for training.
    """
    parser = argparse.ArgumentParser(
        description=docstring.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data",
        choices=["full", "sample"],
        default="full",
        help="real data, or sample data",
    )
    add(
        "--data-dir",
        type=Path,
        default=ROOT / "datasets" / "downloads",
        help="where data lies",
    )
    add(
        "--models-dir",
        type=Path,
        default=ROOT / "models",
        help="where results are written",
    )
    add(
        "--min-accuracy",
        type=float,
        metavar="X",
        help="exit with status 1 below this accuracy",
    )
    if epochs is None:
        return parser
    add(
        "--epochs",
        type=positive_int,
        default=epochs,
        help="passes over the training images",
    )
    add(
        "--batch-size",
        type=positive_int,
        default=batch_size,
        help="images in a training step",
    )
    add(
        "--learning-rate",
        type=positive_float,
        default=learning_rate,
        help="highest learning rate",
    )
    add("--seed", type=seed_number, default=seed, help="of every random choice")
    add(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="arithmetic",
    )
    add(
        "--train-images",
        type=positive_int,
        metavar="N",
        help="use only the first N images",
    )
    return parser


def run(main: Callable[[], dict]) -> None:
    """Run an example's main() as a program and exit with the status that the README describes.

    0 done; 1 with one line for what the user can mend; 2 wrong flags; 130 after Ctrl-C.
    """
    try:
        main()
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the same command goes on from what was saved",
            file=sys.stderr,
        )
        sys.exit(130)
    except (UserError, DataError, WeightsError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a question the training loop can ask after a step.

    So a step is never cut in half. A second Ctrl-C interrupts at once, as usual. A signal that
    the shell has told the program to ignore (nohup, "&" in a script) stays ignored.
    """
    asked = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        if before[signal.SIGINT] != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    for number in before:
        if (
            before[number] != signal.SIG_IGN
        ):  # where the shell has it ignored, as for nohup
            signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# %% Device and precision


def processor() -> dict[str, str]:
    """Return the first processor's fields from /proc/cpuinfo (Linux), else an empty dict."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cores() -> int:
    """Count the processor cores that this process may use."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )


def start(precision: str) -> tf.DType:
    """Choose the number format, print one line about the device, and return the format.

    "auto" is bfloat16 where the hardware multiplies it: CPUs with avx512_bf16 or amx_bf16, GPUs of
    compute capability 8.0 and above. Weights stay in float32 everywhere; only convolutions
    and matrix products, and what flows between them, are in the chosen format.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(
            RuntimeError
        ):  # main() runs a second time in this process
            tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        device = f"GPU {details.get('device_name', '')}"
        fast_bfloat16 = details.get("compute_capability", (0, 0)) >= (8, 0)
    else:
        device = f"CPU, {cores()} cores"
        flags = processor().get("flags", "").split()
        fast_bfloat16 = "avx512_bf16" in flags or "amx_bf16" in flags
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16 else "float32"
    print(f"{device} | TensorFlow {tf.__version__} | {precision}")
    return tf.as_dtype(precision)


# %% Epochs

HISTORY = ("loss", "accuracy", "validation_loss", "validation_accuracy", "seconds")
EPOCH_HEADING = "epoch    loss  accuracy   validation: loss  accuracy   seconds"


def report_epoch(epoch: int, row: Sequence[float]) -> None:
    """Print the line of an epoch, counted from 1, with the figures that HISTORY names.

    Raises:
        UserError: a loss is no finite number.
    """
    loss, accuracy, validation_loss, validation_accuracy, seconds = row
    if not np.isfinite(loss + validation_loss):
        raise UserError(
            f"the loss is {loss:.4g} in epoch {epoch}, {validation_loss:.4g} in validation: "
            "use a smaller --learning-rate"
        )
    print(f"{epoch:5}  {loss:6.4f}    {accuracy:6.4f}           {validation_loss:6.4f}"
          f"    {validation_accuracy:6.4f}    {seconds:6.1f}")  # fmt: skip


def as_history(rows: tf.Variable) -> dict[str, list[float]]:
    """Return the columns of a variable (epochs, 5) by the names in HISTORY."""
    return dict(zip(HISTORY, rows.numpy().T.tolist(), strict=True))


# %% Files


def fingerprint(settings: dict, script: str) -> str:
    """Name a run by what decides its result: the settings and the text of the script.

    Change either and it is another run, with checkpoints of its own.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode() + Path(script).read_bytes()).hexdigest()[:12]


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file so that a kill leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


def origin(script: str, arguments: Sequence[str]) -> dict:
    """Return where a result comes from: the command, the versions, the machine."""
    return {
        "command": shlex.join(["python", f"examples/{Path(script).name}", *arguments]),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
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
    args,
    argv: Sequence[str] | None,
    script: str,
) -> dict:
    """Write metrics.json, print the result and what was written, and check --min-accuracy.

    Args:
        folder: where metrics.json goes.
        metrics: the example's own figures, among them `test_accuracy` and `train_seconds`.
        files: what else the example has written.
        args: the parsed flags.
        argv: the arguments given to main(), None for those of the command line.
        script: the example's `__file__`.

    Returns:
        The metrics, with the time in all, the command, the versions and the machine.

    Raises:
        UserError: the test accuracy is below --min-accuracy.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    seconds = round(time.perf_counter() - STARTED, 1)
    metrics = metrics | {"total_seconds": seconds} | origin(script, arguments)
    write_json(folder / "metrics.json", metrics)
    accuracy = metrics["test_accuracy"]
    print(f"test accuracy {accuracy:.4f} on {metrics['data']}")
    print(
        f"{metrics['train_seconds']:.0f} s of training, {metrics['total_seconds']:.0f} s in all"
    )
    for path in [folder / "metrics.json", *files]:
        print("wrote", shown(path))
    if args.min_accuracy is not None and accuracy < args.min_accuracy:
        raise UserError(
            f"test accuracy {accuracy:.4f} is below --min-accuracy {args.min_accuracy}"
        )
    return metrics


def open_checkpoints(
    checkpoint: tf.train.Checkpoint, folder: Path, restart: bool
) -> tf.train.CheckpointManager:
    """Make a manager of the checkpoints in a folder, and restore the latest one, all of it.

    With `restart`, what is in the folder is forgotten instead.

    Raises:
        UserError: the latest checkpoint is damaged, or is not one of this network.
        OSError: the folder cannot be made.
    """
    folder.mkdir(
        parents=True, exist_ok=True
    )  # fails now rather than after the first epoch
    if restart:
        (folder / "checkpoint").unlink(
            missing_ok=True
        )  # TensorFlow's list of what is there
    try:
        manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
        if manager.latest_checkpoint:
            checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(
            f"the checkpoint in {shown(folder)} cannot be restored ({reason}); "
            "--restart begins anew"
        ) from error
    return manager


def save(manager: tf.train.CheckpointManager) -> str:
    """Write a checkpoint and return its path.

    Raises:
        UserError: it cannot be written; those before it are as they were.
    """
    try:
        return manager.save()
    except tf.errors.OpError as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(
            f"cannot write a checkpoint to {shown(manager.directory)} ({reason})"
        ) from error


def write_weights(network: tf.Module, folder: Path) -> Path:
    """Write a trained network's variables as TensorFlow checkpoint folder/weights.*."""
    tf.train.Checkpoint(network=network).write(str(folder / "weights"))
    return folder / "weights.index"


def read_weights(network: tf.Module, folder: Path, script: str) -> None:
    """Give a network the variables that the last run of the script has written to the folder.

    Raises:
        UserError: no run has come to its end yet, or the variables are not those of this network.
    """
    again = f"run  python examples/{Path(script).name}  first"
    if not (folder / "weights.index").is_file():
        raise UserError(f"no trained network in {shown(folder)}: {again}")
    try:
        tf.train.Checkpoint(network=network).read(
            str(folder / "weights")
        ).assert_consumed()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise UserError(
            f"the weights in {shown(folder)} are damaged or of another network: {again}"
        ) from error


def summary(data: Dataset, train_images: int) -> str:
    """Describe a data set in one line."""
    return (
        f"{data.name}: {train_images:,} training, {len(data.validation_images):,} validation and "
        f"{len(data.test_images):,} test images, "
        f"{data.train_images.shape[1:]} {data.train_images.dtype}"
    )


def count_images(data: Dataset, args) -> int:
    """Print what the data set has, and return how many of the training images are to be used.

    Raises:
        UserError: they do not fill a batch.
    """
    count = len(data.train_images[: args.train_images])
    if count < args.batch_size:
        raise UserError(
            f"{count} training images do not fill a batch: lower --batch-size"
        )
    print(summary(data, count))
    return count


def run_settings(args, dtype: tf.DType, *more: str) -> dict:
    """Return the flags that decide a run's result, those named in `more` among them."""
    flags = (
        "data",
        "epochs",
        "batch_size",
        "learning_rate",
        "seed",
        "train_images",
        *more,
    )
    return {flag: getattr(args, flag) for flag in flags} | {"precision": dtype.name}


def describe(signature) -> str:
    """Describe a SignatureDef of a SavedModel in one line: what goes in and what comes out."""

    def tensors(named):
        return ", ".join(
            f"{name} {tf.as_dtype(info.dtype).name} {tf.TensorShape(info.tensor_shape)}"
            for name, info in sorted(named.items())
        )

    return f"{tensors(signature.inputs)} -> {tensors(signature.outputs)}"


def vgg16_checkpoint(args) -> tuple[Path, object]:
    """Return VGG16's checkpoint, made or downloaded where it is missing, and its `vgg16.Config`.

    It is the file --weights if that is given, a full-size one; with --data sample a small network's
    that has learned to tell the drawn objects `sample.OTHER_KINDS` apart.

    Raises:
        DataError: it cannot be had.
    """
    from datasets import pretrained, sample  # here, since most examples do without
    from models import sample_vgg16, vgg16

    if args.weights:
        return args.weights, vgg16.Config()
    if args.data == "full":
        return pretrained.vgg16_checkpoint(args.data_dir), vgg16.Config()
    kinds = sample.OTHER_KINDS
    archive = sample_vgg16.make_archive(
        args.data_dir / "sample" / "vgg16",
        pretrained.ARCHIVE,
        pretrained.CHECKPOINT,
        pretrained.CLASS_INDEX,
        kinds,
        functools.partial(
            sample.drawn_objects,
            kinds,
            SAMPLE_VGG16_IMAGES,
            sample_vgg16.IMAGE_SIZE,
            seed=7,
        ),
    )
    return pretrained.extract_checkpoint(archive), sample_vgg16.config(len(kinds))


def shown(path: Path | str) -> str:
    """Return a path as short as it can be written from the current folder."""
    with contextlib.suppress(ValueError):
        return str(Path(path).resolve().relative_to(Path.cwd()))
    return str(path)


# %% Pictures


def save_figure(figure: plt.Figure, path: Path) -> Path:
    """Write a matplotlib figure as PNG, close it, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


def plot_results(
    folder: Path,
    history: dict[str, Sequence[float]],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
) -> list[Path]:
    """Draw the three standard pictures: learning curves, confusion matrix, worst mistakes.

    Args:
        folder: where they go.
        history: values for each epoch: `loss`, `accuracy`, `validation_loss`, ...
        images: test images, uint8 (N, H, W, C).
        labels: true classes, integers (N,).
        probabilities: float (N, classes), rows sum to 1.
        class_names: one name for each class.
        title: the heading.

    Returns:
        The paths of the PNG files.
    """
    return [
        plot_learning_curves(history, folder / "learning_curves.png", title),
        plot_confusion_matrix(
            labels,
            probabilities.argmax(axis=1),
            class_names,
            folder / "confusion_matrix.png",
            title,
        ),
        plot_worst_mistakes(
            images,
            labels,
            probabilities,
            class_names,
            folder / "worst_mistakes.png",
            title,
        ),
    ]


def plot_learning_curves(
    history: dict[str, Sequence[float]], path: Path, title: str
) -> Path:
    """Plot loss and accuracy, of training and validation, by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for key, label, style in (
            (name, "training", "o-"),
            (f"validation_{name}", "validation", "s--"),
        ):
            values = history[key]
            axis.plot(
                range(1, len(values) + 1), values, style, label=label, markersize=4
            )
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return save_figure(figure, path)


def plot_confusion_matrix(
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    title: str,
) -> Path:
    """Plot how many images of each true class (row) were taken for each class (column)."""
    count = len(class_names)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (labels, predictions), 1)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(7, 6))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(matrix):
        colour = "white" if share[row, column] > 0.5 else "black"
        axis.text(
            column, row, number, ha="center", va="center", color=colour, fontsize=8
        )
    axis.set_xticks(range(count), class_names, rotation=45, ha="right")
    axis.set_yticks(range(count), class_names)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    return save_figure(figure, path)


def plot_worst_mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    title: str,
) -> Path:
    """Show the wrongly classified images of which the network was most certain."""
    predictions = probabilities.argmax(axis=1)
    certainty = probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    wrong = wrong[np.argsort(-certainty[wrong], kind="stable")][:32]
    captions = [
        f"{class_names[predictions[i]]} {certainty[i]:.0%}\nis {class_names[labels[i]]}"
        for i in wrong
    ]
    return plot_images(images[wrong], path, f"{title}: the worst mistakes", captions)


def plot_images(
    images: np.ndarray,
    path: Path,
    title: str,
    captions: Sequence[str] = (),
    columns: int = 8,
) -> Path:
    """Show images, float (N, H, W, C) from 0 to 1 or uint8, in rows of `columns`."""
    rows = max(1, -(-len(images) // columns))
    height = 1.5 if captions else 1.05
    size = (columns * 1.2, rows * height + 0.6)
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


def show_digit(image: np.ndarray, probabilities: np.ndarray, folder: Path) -> dict:
    """Print which digits a picture may show, and draw what the network was given to see.

    Args:
        image: uint8 (28, 28, 1), as `datasets.mnist.read_picture` returns it.
        probabilities: float (10,).
        folder: where the picture goes.

    Returns:
        The likeliest digit, `digit`, and the `probabilities` of all ten.
    """
    order = np.argsort(-probabilities)
    for digit in order[:5]:
        print(f"{probabilities[digit]:8.2%}  {digit}")
    title = f"{probabilities[order[0]]:.0%} {order[0]}"
    print(
        "wrote",
        shown(plot_images(image[None], folder / "picture.png", title, columns=1)),
    )
    return {"digit": int(order[0]), "probabilities": probabilities.tolist()}
