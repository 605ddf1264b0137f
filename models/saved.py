"""What a run of an example has left for later: weights in a checkpoint, a SavedModel."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.json_format import ParseDict
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from models import WeightsError


def write_weights(network: tf.Module, folder: Path) -> Path:
    """Write a trained network's variables and return the path of the checkpoint's index.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        tf.train.Checkpoint(network=network).write(str(folder / "weights"))
    except tf.errors.OpError as error:
        raise WeightsError(f"cannot write {folder / 'weights'}: {error.message}") from error
    return folder / "weights.index"


@contextlib.contextmanager
def reading(path: Path, script: str) -> Iterator[None]:
    """Make one error of all that can be wrong with a file that a run of the script has left.

    Raises:
        WeightsError: no run has come to its end yet, or the file is damaged or of another network.
    """
    again = f"run  python examples/{Path(script).name}  first"
    if not path.is_file():
        raise WeightsError(f"no trained network in {path.parent}: {again}")
    try:
        yield
    except Exception as error:  # TensorFlow, Keras, zipfile, json and h5py each raise their own
        raise WeightsError(f"{path} is damaged or of another network: {again}") from error


def read_weights(network: tf.Module, folder: Path, script: str) -> None:
    """Give a network the variables that the last run of the script has written to the folder.

    Raises:
        WeightsError: no run has come to its end yet, or the variables are not this network's.
    """
    with reading(folder / "weights.index", script):
        tf.train.Checkpoint(network=network).read(str(folder / "weights")).assert_consumed()


def read_metrics(folder: Path, *names: str) -> list:
    """Return some values of the metrics.json that the last run of the script has written.

    `folder` is models/<script name>.

    Raises:
        WeightsError: no run has come to its end yet, or the file is damaged.
    """
    with reading(folder / "metrics.json", f"{folder.name}.py"):
        metrics = json.loads((folder / "metrics.json").read_text())
        return [metrics[name] for name in names]


def describe(signature: SignatureDef | dict) -> str:
    """Describe a SavedModel's signature, or its form in JSON: what goes in, what comes out."""
    if isinstance(signature, dict):
        signature = ParseDict(signature, SignatureDef(), ignore_unknown_fields=True)
    sides = [
        ", ".join(
            f"{name} {tf.as_dtype(info.dtype).name} {tf.TensorShape(info.tensor_shape)}"
            for name, info in sorted(named.items())
        )
        for named in (signature.inputs, signature.outputs)
    ]
    return " -> ".join(sides)
