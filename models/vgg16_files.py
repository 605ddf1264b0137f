"""VGG16's weights from every format that they are found in.

The names of the weights are those of TF-slim's checkpoint, as `vgg16.Config.shapes` lists them.
"""

import contextlib
import dataclasses
import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from models import WeightsError, vgg16

FIRST_KERNEL = "vgg_16/conv1/conv1_1/weights"  # the one that sees colours


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make one error of the dozen kinds that libraries raise for a file that is no good."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} cannot be read as a file of weights: {reason}") from error


def read(path: Path, config: vgg16.Config) -> dict[str, np.ndarray]:
    """Read VGG16's weights, whatever the format, and check them.

    * A TensorFlow checkpoint with TF-slim's names, of version V1 (one file, vgg_16.ckpt) or V2
      (PREFIX.index and PREFIX.data-...; give PREFIX or PREFIX.index),
    * Keras' vgg16_weights_tf_dim_ordering_tf_kernels.h5,
    * an .npz file with one array for each of TF-slim's names.

    Args:
        path: the file.
        config: the sizes that are expected.

    Returns:
        float32 arrays for the names in `config.shapes()`.

    Raises:
        WeightsError: there is no such file, it cannot be read, or it does not hold what it should.
    """
    if path.suffix == ".index":
        path = path.with_suffix("")
    if not os.path.isfile(path) and not os.path.isfile(f"{path}.index"):
        raise WeightsError(f"there is no file of weights at {path}")
    readers = {".h5": _read_keras, ".hdf5": _read_keras, ".npz": _read_npz}
    reader = readers.get(path.suffix.lower(), _read_checkpoint)
    with reading(path):
        weights = reader(path, config)
    vgg16.check_weights(weights, config, str(path))
    return {name: weights[name] for name in config.shapes()}


def load(
    path: Path, config: vgg16.Config, dtype: tf.DType, trained: tuple[str, ...] = ()
) -> tuple[vgg16.VGG16, dict[str, str | int]]:
    """Return the network with the weights of a file, and its `vgg16.feature_source`.

    Args:
        path: the file; see `read`, for the errors, too.
        config: the sizes that are expected.
        dtype: of the arithmetic.
        trained: what is to be trained; see `vgg16.VGG16`.
    """
    weights = read(path, config)
    return vgg16.VGG16(weights, config, dtype, trained), vgg16.feature_source(weights, dtype)


def checkpoint_reader(path: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Return the names of the weights in a checkpoint (V1, V2), and a function that reads one."""
    # The name of a V1 checkpoint is a pattern to TensorFlow, where "[" has a meaning of its own.
    name = glob.escape(str(path)) if os.path.isfile(path) else str(path)
    reader = tf.train.load_checkpoint(name)
    others = {"global_step", "vgg_16/mean_rgb"}  # in TF-slim's file, but no weights
    return [n for n in reader.get_variable_to_shape_map() if n not in others], reader.get_tensor


def _read_checkpoint(path: Path, config: vgg16.Config) -> dict[str, np.ndarray]:
    names, get_array = checkpoint_reader(path)
    # A copy, because TensorFlow never gives the memory of its own arrays back to the system.
    return {name: np.array(get_array(name)) for name in names}


def _read_npz(path: Path, config: vgg16.Config) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: np.asarray(arrays[name]) for name in arrays.files}


def _read_keras(path: Path, config: vgg16.Config) -> dict[str, np.ndarray]:
    """Read Keras' file: the same network for blue-green-red images, fc1 on flattened images."""
    weights, shapes = {}, config.shapes()
    dense = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
    with h5py.File(path) as file:
        for layer, group in file.items():
            arrays: list[np.ndarray] = []  # below the group, or in a group of its own there

            def keep(_: str, item: object, arrays: list = arrays) -> None:
                if isinstance(item, h5py.Dataset):
                    arrays.append(item[()])

            group.visititems(keep)
            if not arrays:
                continue  # a layer without weights, such as a pooling
            if len(arrays) != 2:
                raise WeightsError(
                    f"{path}: {layer} holds {len(arrays)} arrays, not a kernel and its biases"
                )
            kernel, biases = sorted(arrays, key=lambda array: -array.ndim)
            ours = re.sub(r"block(.)_conv(.)", r"conv\1/conv\1_\2", dense.get(layer, layer))
            shape = shapes.get(f"vgg_16/{ours}/weights", ())
            if kernel.ndim == 2 and kernel.size == np.prod(shape):
                kernel = kernel.reshape(shape)  # (25088, 4096) to (7, 7, 512, 4096)
            weights[f"vgg_16/{ours}/weights"], weights[f"vgg_16/{ours}/biases"] = kernel, biases
    if "vgg_16/fc6/weights" not in weights:
        raise WeightsError(
            f"{path}: fc6 is missing; the file without the top layers (notop) is not enough"
        )
    if FIRST_KERNEL in weights:
        weights[FIRST_KERNEL] = np.ascontiguousarray(weights[FIRST_KERNEL][:, :, ::-1])
    return weights


def write_v1_checkpoint(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as TF-slim's vgg_16.ckpt has them: format V1, 34 names.

    Besides the weights there are `vgg_16/mean_rgb`, float32 (3,), and `global_step`, int64.
    """
    everything = {
        **weights,
        "vgg_16/mean_rgb": np.array(vgg16.MEAN_RGB, np.float32),
        "global_step": np.array(0, np.int64),
    }
    names = sorted(everything)
    tf.raw_ops.Save(
        filename=str(path), tensor_names=names, data=[everything[name] for name in names]
    )


def write_part(
    path: Path, network: vgg16.VGG16, layers: Sequence[str], base: Path, source: dict
) -> None:
    """Write the layers of a network that training has changed, as .npz.

    Args:
        path: of the new file.
        network: VGG16 with what has been trained.
        layers: those to write, such as "conv5".
        base: the file of weights that the other layers are from.
        source: what `vgg16.feature_source` says of that file.
    """
    origin = {"base": str(base.resolve()), "sha256": source["weights_sha256"]}
    origin["config"] = dataclasses.asdict(network.config)
    arrays = {name: weight.numpy() for name, weight in network.weights_of(layers).items()}
    part = path.with_suffix(".part.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, origin=json.dumps(origin), **arrays)
        os.replace(part, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error


def read_with_part(path: Path, base: Path | None, dtype: tf.DType) -> vgg16.VGG16:
    """Return the network of which write_part() has written the trained layers.

    Args:
        path: the file.
        base: where the weights of the other layers are now; None: where they were.
        dtype: of the arithmetic.

    Raises:
        WeightsError: one of the files is missing or damaged, or they do not belong together.
    """
    if not path.is_file():
        raise WeightsError(f"there is no trained network at {path}")
    with reading(path), np.load(path, allow_pickle=False) as arrays:
        trained = dict(arrays)
        origin = json.loads(str(trained.pop("origin")))
        base, config = base or Path(origin["base"]), vgg16.Config(**origin["config"])
    if not base.exists() and not Path(f"{base}.index").exists():
        raise WeightsError(f"{path} needs {base}, which is missing: --weights says where it is")
    network, source = load(base, config, dtype)
    if source["weights_sha256"] != origin["sha256"]:
        raise WeightsError(f"{path} does not belong to the weights in {base}")
    for name, array in trained.items():
        network.weights[name] = tf.Variable(array)
    return network
