"""Example 13: the weights of VGG16 as .npz, with no more than one layer in memory at a time.

You will learn what is inside an .npz file, and so how to write it array by array and read it by
mapping; how to load weights by name, all of them or all but the top; what is lost when they are
stored in half the space, as float16; and how Keras lays out the same weights in its own file.

    python examples/example13_npz_weights_vgg16.py --data sample    # offline: a small VGG16
    python examples/example13_npz_weights_vgg16.py                  # VGG16, downloads 513 MB once
    python examples/example13_npz_weights_vgg16.py --weights models/random_vgg_16.ckpt

The README has the measured results, among them time, memory and size of the file for each step.

Before this one: example 12, .npz files of a small network. After it: nothing yet; this is the last
one.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import cv2
import h5py
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images
from tqdm import tqdm

from datasets import sample
from models import WeightsError, vgg16

NAME = Path(__file__).stem
FIRST_KERNEL = "vgg_16/conv1/conv1_1/weights"
DRAWINGS, CROPS = 1000, 100  # test images: of the sample VGG16, and of the real one
BATCH = 25  # images that go through a network at once
TOLERANCE = 1e-4  # between our logits and those of Keras, as a share of the largest

# %% Weights that are read when they are asked for
# VGG16 has 138 million weights, 553 MB, of which 411 MB are the kernel of fc6. To convert a file,
# one array at a time is enough. So a file is opened here as a mapping: it knows all names, reads an
# array when it is asked for it, and does not keep it. What takes a mapping need not know whether it
# is a file or a dict.


class Arrays(Mapping):
    """The arrays of a file by their names; `read` gets a name and reads the array."""

    def __init__(
        self, path: Path, names: Iterable[str], read: Callable[[str], np.ndarray]
    ):
        self.path, self.names, self.read = path, sorted(names), read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        with reading(self.path):
            return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make one error of the dozen kinds that libraries raise for a file that is no good."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} cannot be read as a file of weights: {reason}"
        ) from error


# %% 1. What is inside an .npz file
# An .npz file is a zip archive, and each of its members an .npy file with one array:
#
#   .npz   for each member a header and the .npy file; at the end a directory of all members, with
#          the place, size and checksum (CRC-32) of each (PKWARE's APPNOTE, section 4.3,
#          https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT)
#   .npy   \x93NUMPY, the version, the length of the text that follows;
#          {'descr': '<f4', 'fortran_order': False, 'shape': (3, 3, 3, 64), }
#          and the numbers, as they lie in memory
#
# np.savez wants all arrays at once. But an archive grows member by member, and an array may be
# forgotten when it has been written. (force_zip64 is for those of more than 2 GB.)
#
# np.load copies arrays into memory; from .npz it cannot map them. But numbers that are not
# compressed stand in the file just as they would in memory. So that part of the file is mapped: the
# operating system lets it appear as memory, reads the pages that are touched, and takes them back
# when space is short. All that it needs is the place where they begin. Mapping does not check the
# checksum, as np.load does, so we do.
#
# A file that is mapped must not change. Ours never do: a new one is written beside the old one and
# renamed, and who has mapped the old one keeps it.


def write_npz(path: Path, weights: Mapping[str, np.ndarray]) -> Arrays:
    """Write arrays to an .npz file one after another, little-endian, and open the file."""
    part = path.with_name(f"{path.name}.part")
    with zipfile.ZipFile(part, "w") as archive:
        for name in tqdm(weights, path.name, leave=False):
            array = weights[name]
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            member = zipfile.ZipInfo(
                f"{name}.npy"
            )  # of a fixed date: equal arrays, equal files
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    os.replace(part, path)
    return open_npz(path)


def open_npz(path: Path) -> Arrays:
    """Open an .npz file. The arrays are mapped, and cannot be changed."""
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info for info in archive.infolist()
        }

    def read(name):
        member = members[name]
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(
                f"{path} is compressed: np.load it, and np.savez it first"
            )
        with path.open("rb") as file:
            file.seek(
                member.header_offset + 26
            )  # here stand the lengths of two fields,
            start = file.seek(
                sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR
            )  # skipped here
            if np.lib.format.read_magic(file) != (1, 0):
                raise WeightsError(f"{path}: {name} is not an array of numbers")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            header_size = file.tell() - start
        content = np.memmap(path, np.uint8, "r", start, member.file_size)
        if zlib.crc32(content) != member.CRC:
            raise WeightsError(
                f"{path} is damaged: the checksum of {name} is not as it should be"
            )
        numbers = np.frombuffer(content, dtype, offset=header_size)
        return numbers.reshape(shape, order="F" if by_columns else "C")

    return Arrays(path, members, read)


# %% From the checkpoint and back
# vgg_16.ckpt is a checkpoint of TensorFlow's old version V1. On the way back it becomes one of
# today's version V2, an index and files of numbers. TensorFlow can merge the indices of several
# checkpoints, for machines that train together; here it lets us write one array at a time.


def open_checkpoint(path: Path) -> Arrays:
    """Open a checkpoint with TF-slim's names: V1 by its path, V2 by its prefix."""
    with reading(path):
        return Arrays(path, *vgg16.open_checkpoint(path))


def write_checkpoint(folder: Path, weights: Mapping[str, np.ndarray]) -> Arrays:
    """Write a checkpoint of version V2 to a folder of its own, array by array, and open it."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    prefixes = [str(part / str(number)) for number in range(len(weights))]
    try:
        for prefix, name in zip(
            tqdm(prefixes, folder.name, leave=False), weights, strict=True
        ):
            tf.raw_ops.SaveV2(
                prefix=prefix,
                tensor_names=[name],
                shape_and_slices=[""],
                tensors=[weights[name]],
            )
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=prefixes,
            destination_prefix=str(part / "vgg_16.ckpt"),
            delete_old_dirs=False,  # they are the new one's
        )
    except tf.errors.OpError as error:
        reason = " ".join(str(error).split())[:200]
        raise common.UserError(
            f"cannot write a checkpoint to {folder} ({reason})"
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return open_checkpoint(folder / "vgg_16.ckpt")


def check_same(weights: Arrays, digest: str) -> None:
    """Check that a file that was just written holds what it should, bit for bit.

    Raises:
        WeightsError: it does not.
    """
    if vgg16.weights_digest(weights) != digest:
        raise WeightsError(
            f"{weights.path} does not hold what was written: is the disk sound?"
        )


# %% 2. Loading by name
# Two networks rarely have just the same weights. Where name and shape agree, an array is loaded.
# All else must be reported: a layer whose name is spelt a little differently would stay untrained,
# and nobody would know why the answers are poor. What to load is chosen by the variables that are
# given: all but the top, say, for a task with other classes.


def load_by_name(
    variables: Mapping[str, tf.Variable], weights: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """Assign weights to the variables of the same name and shape, in the variables' dtype.

    Returns:
        The names of what is `loaded`, `missing` among the weights, `of another shape` there, and
        `unexpected` because there is no such variable.
    """
    report = {"loaded": [], "missing": [], "of another shape": []}
    for name, variable in variables.items():
        if name not in weights:
            report["missing"].append(name)
        elif (array := weights[name]).shape != variable.shape:
            report["of another shape"].append(name)
        else:
            variable.assign(array.astype(variable.dtype.as_numpy_dtype, copy=False))
            report["loaded"].append(name)
    return report | {"unexpected": [name for name in weights if name not in variables]}


def print_report(title: str, report: dict[str, list[str]]) -> None:
    """Print how many weights are in each list, and by name those that are not loaded."""
    print(
        f"   {title}:",
        ", ".join(f"{len(names)} {kind}" for kind, names in report.items()),
    )
    for kind, names in list(report.items())[1:]:
        if names:
            print(f"      {kind}: {', '.join(names)}")


def empty_network(config: vgg16.Config) -> vgg16.VGG16:
    """Return a VGG16 of zeros."""
    return vgg16.VGG16(
        {n: np.zeros(s, np.float32) for n, s in config.shapes().items()}, config
    )


def load_all_but_the_top(
    weights: Arrays, whole: vgg16.VGG16, images: np.ndarray
) -> None:
    """Load a VGG16 for ten classes, and compare it, below its top layer, with the whole network."""
    network = empty_network(dataclasses.replace(whole.config, classes=10))
    variables = {name: v for name, v in network.weights.items() if "/fc8/" not in name}
    print_report("all but the top, into VGG16_10", load_by_name(variables, weights))
    inputs = vgg16.preprocess(images, whole.config.image_size)
    difference = np.abs(network.features(inputs) - whole.features(inputs)).max()
    print(f"   what the two top layers are given differs by {difference:.0e}")


# %% 3. Half the space: float16
# A float32 has 24 binary digits. A float16 has 11, none that are larger than 65,504, and ever fewer
# digits below 0.00006. Weights are found by small, noisy steps, and do not need the digits that
# are lost. Only storage is halved here: when they are loaded, they become float32 again.


def as_float16(weights: Arrays) -> Arrays:
    """Return the weights rounded to float16, each when it is asked for."""

    def read(name):
        with np.errstate(over="ignore"):
            array = weights[name].astype(np.float16)
        if not np.isfinite(array).all():
            raise WeightsError(f"{weights.path}: {name} is too large for float16")
        return array

    return Arrays(weights.path, weights, read)


# %% 4. Keras' file
# A .weights.h5 file is in the HDF5 format: folders of arrays, in one file. Keras calls a layer's
# folder after its class, and counts the layers of a class: layers/conv2d/vars/0 is the kernel of
# the first convolution and vars/1 its bias, layers/conv2d_1/vars/0 the kernel of the second.
#
# * Convolutions have the axes (height, width, in, out) on both sides: nothing is to be transposed.
# * Dense layers: TF-slim's fc6 is a convolution whose kernel covers the whole last image, (7, 7,
#   512, 4096). Keras writes this image out in one row, line by line, pixel by pixel, channel by
#   channel, and multiplies by a matrix, (25088, 4096). The kernel's first three axes run through
#   its numbers in just this order: they are only counted as one, and no number moves. (In PyTorch
#   both are otherwise: see example 12.)
# * Colours: the published VGG16 takes blue, green, red, in Keras still; TF-slim's red, green, blue.
#   A sum does not care about the order, if pixels and weights have the same: the first kernel's
#   axis of channels is turned around.


def keras_places(config: vgg16.Config) -> dict[str, str]:
    """Return where in Keras' file each weight is, by TF-slim's names."""
    kernels = [name for name in config.shapes() if name.endswith("/weights")]
    places = {}
    for kind, names in (("conv2d", kernels[:-3]), ("dense", kernels[-3:])):
        for number, name in enumerate(names):
            folder = f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars"
            places[name] = f"{folder}/0"
            places[name.replace("/weights", "/biases")] = f"{folder}/1"
    return places


def write_keras(
    path: Path, weights: Mapping[str, np.ndarray], config: vgg16.Config
) -> Arrays:
    """Write the file that Keras would write of its VGG16, array by array, and open it."""
    part = path.with_name(f"{path.name}.part")
    with h5py.File(part, "w") as file:
        for name, place in tqdm(keras_places(config).items(), path.name, leave=False):
            array = weights[name]
            if name == FIRST_KERNEL:
                array = array[:, :, ::-1]  # red, green, blue to blue, green, red
            elif "/fc" in name and array.ndim == 4:
                array = array.reshape(
                    -1, array.shape[-1]
                )  # (7, 7, 512, 4096) to (25088, 4096)
            file[place] = array
    os.replace(part, path)
    return open_keras(path, config)


def open_keras(path: Path, config: vgg16.Config) -> Arrays:
    """Open a .weights.h5 file of Keras' VGG16, with TF-slim's names and axes."""
    shapes, places = config.shapes(), keras_places(config)
    names, found = {place: name for name, place in places.items()}, []

    def note(place, item):
        if isinstance(item, h5py.Dataset):
            found.append(names.get(place, place))

    with reading(path), h5py.File(path) as file:
        file.visititems(note)

    def read(name):
        with h5py.File(path) as file:
            array = file[places[name]][()]
        if name == FIRST_KERNEL:
            array = array[:, :, ::-1]
        elif "/fc" in name and array.ndim == 2:
            array = array.reshape(*shapes[name][:-1], array.shape[-1])
        return array

    return Arrays(path, found, read)


def keras_vgg16(config: vgg16.Config) -> tf.keras.Model:
    """Build VGG16 of Keras' layers, untrained; tf.keras.applications has only the full size."""
    layers = tf.keras.layers
    stack = [tf.keras.Input((config.image_size, config.image_size, 3))]
    for block, count in enumerate(vgg16.CONVOLUTIONS):
        filters = config.width * min(2**block, 8)
        for _ in range(count):
            stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        stack.append(layers.MaxPooling2D())
    stack += [layers.Flatten(), *(layers.Dense(config.dense, "relu") for _ in range(2))]
    return tf.keras.Sequential([*stack, layers.Dense(config.classes)])


# %% Evaluation
# The sample VGG16 is tested on drawings of the kinds that it knows. For the real one there are no
# labelled photographs at hand: it gets crops of the two that come with scikit-learn, and as right
# counts what the weights say before they are rounded.


def get_test_images(
    config: vgg16.Config, seed: int
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return uint8 images (N, size, size, 3), int labels (N,) or None, and what they are."""
    size = config.image_size
    if config.classes < vgg16.Config().classes:
        kinds = sample.OTHER_KINDS
        drawings = sample.drawn_objects(
            kinds, DRAWINGS, size, 1000 + seed
        )  # it learned seed 7's
        return *drawings, "sample data: drawn objects"
    rng, photographs, crops = (
        np.random.default_rng(seed),
        load_sample_images().images,
        [],
    )
    for number in range(CROPS):
        photograph = photographs[number % len(photographs)]  # uint8 (427, 640, 3)
        side = rng.integers(size // 2, 400)
        y, x = (
            rng.integers(photograph.shape[0] - side),
            rng.integers(photograph.shape[1] - side),
        )
        crops.append(cv2.resize(photograph[y : y + side, x : x + side], (size, size)))
    return (
        np.stack(crops),
        None,
        "crops of photographs, right: what the float32 weights say",
    )


def ours(network: vgg16.VGG16) -> Callable[[np.ndarray], tf.Tensor]:
    """Return the way from uint8 images to logits through TF-slim's network."""
    return lambda images: network(vgg16.preprocess(images, network.config.image_size))


def keras(model: tf.keras.Model) -> Callable[[np.ndarray], tf.Tensor]:
    """Return the way from uint8 images to logits through Keras' network."""
    preprocess = (
        tf.keras.applications.vgg16.preprocess_input
    )  # blue, green, red; minus the mean
    return lambda images: model(preprocess(images.astype(np.float32)))


def predict(network: Callable, images: np.ndarray, title: str) -> np.ndarray:
    """Return float32 logits (N, classes) for uint8 images (N, size, size, 3)."""
    starts = tqdm(range(0, len(images), BATCH), title, leave=False)
    return np.concatenate([network(images[i : i + BATCH]) for i in starts])


# %% Run


def main(argv: list[str] | None = None) -> dict:
    """Convert the weights to each format and back, compare, and return the metrics."""
    parser = common.make_parser(__doc__)
    add = parser.add_argument
    add("--weights", type=Path, metavar="PATH", help="VGG16 as .ckpt, V1 or V2")
    add(
        "--seed",
        type=common.seed_number,
        default=0,
        help="of the choice of test images",
    )
    args = parser.parse_args(argv)
    common.start("float32")
    tf.config.experimental.enable_tensor_float_32_execution(
        False
    )  # three digits, on some GPUs
    folder = args.models_dir / NAME
    folder.mkdir(parents=True, exist_ok=True)
    path, config = common.vgg16_checkpoint(args)
    images, labels, data = get_test_images(config, args.seed)
    print(f"{len(images):,} test images, {images.shape[1:]}: {data}")

    print(f"1. {common.shown(path)} to .npz and back")
    checkpoint = open_checkpoint(path)
    vgg16.check_weights(checkpoint, config, str(path))
    digest = vgg16.weights_digest(checkpoint)  # of all names, shapes, dtypes and bits
    weights = write_npz(folder / "vgg_16.npz", checkpoint)
    check_same(weights, digest)
    again = write_checkpoint(folder / "checkpoint", weights)
    check_same(again, digest)
    parameters = sum(math.prod(shape) for shape in config.shapes().values())
    print(
        f"   {len(weights)} arrays, {parameters:,} parameters, the same bits in all three files"
    )

    print("2. by name")
    network = empty_network(config)
    print_report(
        f"all, into VGG16_{config.classes}", load_by_name(network.weights, weights)
    )
    started = time.perf_counter()
    logits = predict(ours(network), images, "float32")
    speed = len(images) / (time.perf_counter() - started)
    load_all_but_the_top(weights, network, images[:BATCH])

    print("3. float16")
    half = write_npz(folder / "vgg_16_float16.npz", as_float16(weights))
    load_by_name(network.weights, half)
    half_logits = predict(ours(network), images, "float16")
    labels = logits.argmax(axis=1) if labels is None else labels
    results = {}
    print("                  file   test accuracy")
    for file, values in ((weights, logits), (half, half_logits)):
        accuracy = float(np.mean(values.argmax(axis=1) == labels))
        name, size = (
            "float32" if file is weights else "float16",
            file.path.stat().st_size,
        )
        print(f"   {name} {size / 1e6:8.1f} MB {accuracy:15.4f}")
        results |= {f"test_accuracy_{name}": accuracy, f"bytes_{name}": size}
    change = float(np.abs(tf.nn.softmax(half_logits) - tf.nn.softmax(logits)).max())
    same = float(np.mean(half_logits.argmax(axis=1) == logits.argmax(axis=1)))
    print(
        f"   {same:.2%} of the answers are the same; no probability changes by over {change:.1e}"
    )
    del network  # half a gigabyte

    print("4. Keras")
    keras_file = write_keras(folder / "vgg_16.weights.h5", weights, config)
    check_same(keras_file, digest)
    model = keras_vgg16(config)
    model.load_weights(keras_file.path)
    keras_logits = predict(keras(model), images, "Keras")
    difference = float(np.abs(keras_logits - logits).max() / np.abs(logits).max())
    print(f"   loaded by Keras: its logits differ by {difference:.0e} of the largest")
    if not difference < TOLERANCE:
        raise common.UserError(
            f"Keras' logits differ by {difference:.1e} of the largest"
        )

    metrics = results | {
        "data": data,
        "weights": common.shown(path),
        "test_accuracy": results["test_accuracy_float16"],
        "same_answers": same,
        "largest_change_of_a_probability": change,
        "largest_difference_to_keras": difference,
        "train_seconds": 0.0,
        "images_per_second": round(speed, 1),
        "parameters": parameters,
        "epochs": 0,
        "seed": args.seed,
        "precision": "float32",
    }
    files = [weights.path, again.path.parent, half.path, keras_file.path]
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * Read vgg_16.npz with dict(np.load(...)): how long does it take, and how much memory?
# * Round to fewer digits still, 8 bits and a scale for each channel: what accuracy is left?
# * Example 07 takes a file of yours in place of the checkpoint: --weights vgg_16.npz.
# * tf.keras.applications.VGG16(weights=...) downloads Keras' own copy. Save its weights as
#   .weights.h5, and open it with open_keras(): how far is it from TF-slim's?

if __name__ == "__main__":
    common.run(main)
