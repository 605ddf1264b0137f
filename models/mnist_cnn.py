"""The convolutional network for MNIST of examples 04 and 05, for examples with another subject."""

import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models import WeightsError
from models.saved import read_weights


def make_network() -> tf.keras.Model:
    """Make the network: uint8 images (N, 28, 28, 1) to float32 logits (N, 10).

    Example 04 explains it layer by layer, example 05 operation by operation. Its weights are named
    conv1/kernel, conv1/bias, conv2/kernel, ..., dense/bias, in this order.
    """
    layers, relu = tf.keras.layers, {"activation": "relu"}
    return tf.keras.Sequential(
        [
            tf.keras.Input([28, 28, 1], dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 5, strides=2, name="conv1", **relu),  # (N, 12, 12, 32)
            layers.Conv2D(64, 3, name="conv2", **relu),  # (N, 10, 10, 64)
            layers.MaxPooling2D(2),  # (N, 5, 5, 64)
            layers.Conv2D(128, 3, name="conv3", **relu),  # (N, 3, 3, 128)
            layers.Conv2D(128, 3, padding="same", name="conv4", **relu),  # (N, 3, 3, 128)
            layers.Flatten(),  # (N, 1152)
            layers.Dense(10, name="dense"),
        ]
    )


def weights_of(network: tf.keras.Model) -> dict[str, np.ndarray]:
    """Return the weights, float32, by their names."""
    return {
        f"{layer.name}/{variable.name}": variable.numpy()
        for layer in network.layers
        for variable in layer.weights
    }


def read_example_05(network: tf.keras.Model, folder: Path) -> None:
    """Give this network the weights that example 05 has written to its folder of results.

    In a checkpoint, variables are named after the attributes of Python objects, so that reading it
    takes objects with the attributes of example 05's network.

    Raises:
        WeightsError: example 05 has not run yet, or its checkpoint is damaged.
    """
    *convolutions, dense = [layer for layer in network.layers if layer.weights]
    same_attributes = tf.train.Checkpoint(
        kernels=[layer.kernel.value for layer in convolutions],
        biases=[layer.bias.value for layer in convolutions],
        dense=dense.kernel.value,
        dense_biases=dense.bias.value,
    )
    read_weights(same_attributes, folder, "example05_mnist_cnn_nn.py")


def trained(
    folder: Path, data: str, images: np.ndarray, labels: np.ndarray
) -> tuple[tf.keras.Model, float]:
    """Return the network as example 05 has trained it, or else as a moment's training leaves it.

    Args:
        folder: example 05's folder of results.
        data: the name of the data set that it must have been trained on.
        images: uint8 (N, 28, 28, 1), to train on where it was not; the first 5,000 are used.
        labels: int32 (N,).

    Returns:
        The network, and the seconds that it was trained for: 0 if it is example 05's.

    Raises:
        WeightsError: what example 05 has left is damaged.
    """
    network, metrics = make_network(), folder / "metrics.json"
    try:
        if json.loads(metrics.read_text())["data"] == data:
            read_example_05(network, folder)
            return network, 0.0
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError) as error:
        again = "run  python examples/example05_mnist_cnn_nn.py  again"
        raise WeightsError(f"cannot use {metrics} ({error}): {again}") from error
    print("example 05 has left no network for this data set: one is trained for a moment")
    began = time.perf_counter()
    train(network, images[:5000], labels[:5000], epochs=12, batch_size=64, learning_rate=2e-3)
    return network, time.perf_counter() - began


def train(
    network: tf.keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """Train with Adam, where no trained network is at hand and a passable one will do.

    Raises:
        WeightsError: the loss is no finite number.
    """
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(tf.keras.optimizers.Adam(learning_rate), loss)
    for _ in tqdm(range(epochs), "training", leave=False):
        history = network.fit(images, labels, batch_size, verbose=0).history
        if not np.isfinite(history["loss"][0]):
            raise WeightsError("the loss is no finite number: use a smaller --learning-rate")
