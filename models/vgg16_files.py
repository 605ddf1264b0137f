"""VGG16's weights from every format that they are found in.

The names of the weights are those of TF-slim's checkpoint, as `vgg16.Config.shapes` lists them.
"""

import contextlib
import dataclasses
import glob
import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def read(path: Path, config: vgg16.Config | None = None) -> dict[str, np.ndarray]:
    """Read VGG16's weights from a file of any format, and check them; see `each_array`.

    Args:
        path: the file.
        config: the sizes that are expected; None: those that the file has.

    Returns:
        float32 arrays for the names in `config.shapes()`.

    Raises:
        WeightsError: there is no such file, it cannot be read, or it does not hold what it should.
    """
    # A copy, because TensorFlow never gives the memory of its own arrays back to the system.
    weights = {name: np.array(array, order="C") for name, array in each_array(path)}
    config = config or vgg16.Config.of(weights)
    vgg16.check_weights(weights, config, str(path))
    return {name: weights[name] for name in config.shapes()}


def load(
    path: Path,
    dtype: tf.DType,
    trained: tuple[str, ...] = (),
    image_size: int = 224,
    pooling: tuple[str, ...] = ("mean4", "mean5"),
) -> tuple[vgg16.VGG16, dict[str, Any]]:
    """Return the network with the weights of a file, and its `vgg16.feature_source`.

    Args:
        path: the file; see `read`, for the errors, too.
        dtype: of the arithmetic.
        trained: what is to be trained; see `vgg16.VGG16`.
        image_size: of a network without dense layers, as the next; see `vgg16.Config`.
        pooling: what its features are.
    """
    weights = read(path)
    config = vgg16.Config.of(weights, image_size, pooling)
    source = vgg16.feature_source(weights, config, dtype)
    return vgg16.VGG16(weights, config, dtype, trained), source


def each_array(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays of a file of VGG16's weights, one after another, unchecked.

    * A TensorFlow checkpoint with TF-slim's names, of version V1 (one file, vgg_16.ckpt) or V2
      (PREFIX.index and PREFIX.data-...; any of the two, or PREFIX),
    * an .npz file with one array for each of TF-slim's names,
    * Keras' files: those that it publishes, with and without the top layers (notop), .weights.h5,
      and models saved whole, as .h5 or .keras.

    Raises:
        WeightsError: there is no such file, or it cannot be read.
    """
    if not os.path.isfile(path) and not os.path.isfile(f"{path}.index"):
        raise WeightsError(f"there is no file of weights at {path}")
    keras = dict.fromkeys((".h5", ".hdf5", ".keras"), _each_of_keras)
    readers = keras | {".npz": _each_of_npz}
    with reading(path):
        yield from readers.get(path.suffix.lower(), _each_of_checkpoint)(path)


def _each_of_checkpoint(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path))
    if not os.path.isfile(prefix) and not os.path.isfile(f"{prefix}.index"):
        raise WeightsError(f"{path} needs {prefix}.index beside it, which is missing")
    with tempfile.TemporaryDirectory() as folder:
        if re.search(r"[^\w :/.-]", Path(prefix).as_posix()):
            # To TensorFlow, a name is a pattern, in which "[" has a meaning of its own.
            for file in glob.glob(f"{glob.escape(prefix)}*"):
                os.symlink(os.path.abspath(file), f"{folder}/weights{file[len(prefix) :]}")
            prefix = f"{folder}/weights"
        reader = tf.train.load_checkpoint(prefix)
        others = {"global_step", "vgg_16/mean_rgb"}  # in TF-slim's file, but no weights
        for name in sorted(set(reader.get_variable_to_shape_map()) - others):
            yield name, reader.get_tensor(name)


def _each_of_npz(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            yield name, np.asarray(arrays[name])


def _each_of_keras(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Read any layout of Keras: the same network for blue-green-red images, fc6 a matrix."""
    packed = path.suffix.lower() == ".keras"  # a zip archive with a .weights.h5 in it
    source = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")) if packed else path
    with h5py.File(source) as file:
        layers = _keras_layers(file, path)
        count = tuple(sum(kernel.ndim == ndim for kernel, _ in layers) for ndim in (4, 2))
        if count not in ((13, 0), (13, 3)):
            raise WeightsError(
                f"{path} holds {count[0]} convolutions and {count[1]} dense layers, where VGG16 "
                "has 13 and 3, or the 13 alone"
            )
        names = [name for name in vgg16.Config().shapes() if name.endswith("/weights")]
        for name, (kernel, biases) in zip(names, layers, strict=False):
            array = kernel[()]
            if name == FIRST_KERNEL:
                array = array[:, :, ::-1]
            elif array.ndim == 2:  # (25088, 4096) to (7, 7, 512, 4096), the others to (1, 1, ...)
                channels = layers[12][0].shape[-1] if "/fc6/" in name else len(array)
                side = math.isqrt(len(array) // channels)
                if len(array) != side**2 * channels:
                    raise WeightsError(f"{path}: {kernel.name} is not for a square image")
                array = array.reshape(side, side, channels, -1)
            yield name, array
            yield name.replace("/weights", "/biases"), biases[()]


def _keras_layers(file: h5py.File, path: Path) -> list[tuple[h5py.Dataset, h5py.Dataset]]:
    """Return kernel and biases of each layer, convolutions first.

    All layouts have a folder for each layer, at whatever depth. The folders are numbered, or the
    file says in what order they are. There may be the state of an optimizer beside them.
    """
    places = ("model_weights", "layers", "_layer_checkpoint_dependencies")
    root = next((file[place] for place in places if place in file), file)
    order = [n if isinstance(n, str) else n.decode() for n in root.attrs.get("layer_names", ())]
    folders: dict[str, list[h5py.Dataset]] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":  # no state of a dropout
            folders.setdefault(name.rpartition("/")[0], []).append(item)

    def position(name: str) -> tuple[int, list[int | str]]:
        first, words = name.partition("/")[0], re.split(r"(\d+)", name)
        place = order.index(first) if first in order else -1
        return place, [int(word) if word.isdecimal() else word for word in words]

    root.visititems(keep)
    layers = []
    for name in sorted(folders, key=position):  # conv2d_2 before conv2d_10
        kernel, *others = sorted(folders[name], key=lambda array: -array.ndim)
        if kernel.ndim not in (2, 4) or [array.ndim for array in others] != [1]:
            shapes = ", ".join(str(array.shape) for array in folders[name])
            raise WeightsError(f"{path}: {name} holds {shapes}, not a kernel and its biases")
        layers.append((kernel, others[0]))
    return sorted(layers, key=lambda layer: -layer[0].ndim)


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
    path: Path,
    network: vgg16.VGG16,
    layers: Sequence[str],
    base: Path,
    source: dict,
    class_names: Sequence[str],
) -> None:
    """Write the layers of a network that training has changed, as .npz.

    Args:
        path: of the new file.
        network: VGG16 with what has been trained.
        layers: those to write, such as "conv5".
        base: the file of weights that the other layers are from.
        source: what `vgg16.feature_source` says of that file.
        class_names: what the network tells apart.
    """
    origin: dict[str, Any] = {"base": str(base.resolve()), "sha256": source["weights_sha256"]}
    origin |= {"config": dataclasses.asdict(network.config), "class_names": class_names}
    arrays = {name: weight.numpy() for name, weight in network.weights_of(layers).items()}
    part = path.with_suffix(".part.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, origin=json.dumps(origin), **arrays)
        os.replace(part, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error


def read_with_part(
    path: Path, base: Path | None, dtype: tf.DType
) -> tuple[vgg16.VGG16, tuple[str, ...]]:
    """Return the network of which write_part() has written the trained layers, and its classes.

    Args:
        path: the file.
        base: where the weights of the other layers are now; None: where they were.
        dtype: of the arithmetic.

    Raises:
        WeightsError: one of the files is missing or damaged, or they do not belong together.
    """
    if not path.is_file():
        raise WeightsError(f"there is no trained network at {path}: train one first")
    with reading(path), np.load(path, allow_pickle=False) as arrays:
        trained = dict(arrays)
        origin = json.loads(str(trained.pop("origin")))
        base, sizes = base or Path(origin["base"]), origin["config"]
        names = tuple(origin["class_names"])
    if not base.exists() and not Path(f"{base}.index").exists():
        raise WeightsError(f"{path} needs {base}, which is missing: --weights says where it is")
    weights = read(base)
    if vgg16.feature_source(weights, vgg16.Config(), dtype)["weights_sha256"] != origin["sha256"]:
        raise WeightsError(f"{path} does not belong to the weights in {base}")
    weights |= trained
    more = sizes["image_size"], tuple(sizes.get("pooling", ()))
    return vgg16.VGG16(weights, vgg16.Config.of(weights, *more), dtype), names
