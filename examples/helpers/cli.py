"""The flags that all examples share, the errors that a user can mend, and the exit status."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from datasets.download import DataError
from models import WeightsError
from models.whole import replacing, writing  # noqa: F401  # for the examples

ROOT = Path(__file__).resolve().parents[2]


class UserError(Exception):
    """Something the user can mend; its text is one line that says what, where and what to do."""


def number(kind: type, least: float, most: float) -> Callable[[str], float]:
    """Make a parser of numbers from `least` to `most`, for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return parse


positive_int = number(int, 1, 2**31 - 1)


def models_folder(text: str) -> Path:
    """Parse a folder; refuse one in which TensorFlow, which sees patterns, would find no file."""
    whole, signs = str(Path(text).expanduser().absolute()), "[]*?" if os.sep == "\\" else "*?[\\]"
    if set(signs) & set(whole) or not whole.isprintable():
        raise argparse.ArgumentTypeError(f"TensorFlow wants a path in UTF-8 without {signs}")
    return Path(text).expanduser()  # a shell leaves the ~ of --flag=~/x to the program


def make_parser(docstring: str, *training: float) -> argparse.ArgumentParser:
    """Make a parser of the shared flags; `training`: default epochs, batch size, learning rate."""
    style, title = argparse.ArgumentDefaultsHelpFormatter, docstring.partition("\n")[0]
    parser = argparse.ArgumentParser(description=title, formatter_class=style)
    add = parser.add_argument
    add("--data", choices=["full", "sample"], default="full", help="real data, or sample data")
    downloads, models = str(ROOT / "datasets" / "downloads"), str(ROOT / "models")
    add("--data-dir", type=lambda x: Path(x).expanduser(), default=downloads, help="of data")
    add("--models-dir", type=models_folder, default=models, help="where results are written")
    add("--min-accuracy", type=float, metavar="X", help="exit with status 1 below this accuracy")
    if training:
        epochs, batch_size, rate = training
        float32 = number(float, 1e-45, 3e38)
        add("--epochs", type=positive_int, default=epochs, help="passes over the training images")
        add("--batch-size", type=positive_int, default=batch_size, help="images in a step")
        add("--learning-rate", type=float32, default=rate, help="at its highest")
        add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of every random choice")
        add("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
        add("--train-images", type=positive_int, metavar="N", help="use only the first N images")
        add("--restart", action="store_true", help="begin anew, whatever has been saved")
    return parser


def settings(args: argparse.Namespace, dtype: tf.DType, but: Sequence[str] = ()) -> dict:
    """Return the flags that decide what a training comes to: all but paths, checks and `but`."""
    others = {"data_dir", "models_dir", "min_accuracy", "restart", "image", *but}
    return {k: v for k, v in vars(args).items() if k not in others} | {"precision": dtype.name}


def run(main: Callable[..., dict]) -> None:
    """Run main() as a program: exit status 1 and one line for a user's error, 130 for Ctrl-C."""
    try:
        main(*([[]] if "ipykernel" in sys.modules else []))  # a kernel's flags are none of ours
    except KeyboardInterrupt as stop:
        print("\ninterrupted", *stop.args, sep="; ", file=sys.stderr)
        sys.exit(130)
    except (UserError, DataError, WeightsError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)  # any other error is a fault of ours, and keeps its traceback


def shown(path: Path | str) -> str:
    """Return a path as short as it can be written from the current folder."""
    whole = Path(path).resolve()
    text = str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else path)
    return text.encode("utf-8", "backslashreplace").decode()  # not all names are UTF-8
