"""Example 13: the weights of VGG16 as .npz, with one array in memory at a time.

You will learn what is inside an .npz file, and so how to write and read it array by
array; how to load weights by name, all of them or all but the top; what is lost when
they are stored in half the space, as float16; and how Keras lays out the same weights.

    python examples/example13_npz_weights_vgg16.py --data sample     # offline
    python examples/example13_npz_weights_vgg16.py --weights blocks  # 59 MB of VGG16
    python examples/example13_npz_weights_vgg16.py                   # all of it, 513 MB

docs/results.md has what was measured, also time and memory. Before this one: example
12, .npz files of a small network. After it: example 14, a training that is sped up.
"""

import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import h5py
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images
from tqdm import tqdm

from datasets import pretrained
from models import WeightsError, sample_vgg16, vgg16, vgg16_files
from models.training import count_parameters, predict
from models.vgg16_files import FIRST_KERNEL, reading

NAME = Path(__file__).stem
CROPS = 100  # of photographs, to compare answers on
BATCH = 25  # images that go through a network at once
Arrays = Iterable[tuple[str, np.ndarray]]  # names and arrays, one after another

# %% One array at a time
# VGG16 has 138 million weights, 553 MB, of which 411 MB are the kernel of fc6. To
# convert a file, one array at a time is enough: what reads a file is a generator, which
# yields a name and an array, and reads the next one when it is asked for it, such as
# `each_array` in models/vgg16_files.py, which knows all formats of VGG16.

# %% 1. What is inside an .npz file
# It is a zip archive: members, each behind a header, and at the end a directory with
# place, size and checksum (CRC-32) of each. Each member is an .npy file with one array
# (https://numpy.org/neps/nep-0001-npy-format.html): `\x93NUMPY`, the version, the
# length of a text such as `{'descr': '<f4', 'fortran_order': False, 'shape': (64,), }`,
# the text, and the numbers as they lie in memory. np.savez wants all arrays at once,
# but an archive can grow member by member.


def write_npz(path: Path, arrays: Arrays) -> Path:
    """Write arrays to an .npz file, one after another."""
    with cli.replacing(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in tqdm(arrays, path.name, leave=False):
            member = zipfile.ZipInfo(f"{name}.npy")  # of a fixed date
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return path


def read_npz(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Read an .npz file."""
    with reading(path), np.load(path, allow_pickle=False) as file:
        for name in file.files:
            yield name, file[name]


# %% From the checkpoint and back
# On the way back it becomes a checkpoint of today's version V2: an index, and files of
# numbers. TensorFlow can merge several, which lets us write one array at a time.


def write_checkpoint(folder: Path, arrays: Arrays) -> Path:
    """Write a checkpoint of version V2, array by array, and return its prefix."""
    with cli.replacing(folder) as part:
        part.mkdir()
        prefixes, whole = [], str(part / "vgg_16.ckpt")
        for name, array in tqdm(arrays, folder.name, leave=False):
            prefixes.append(str(part / str(len(prefixes))))
            one = {"tensor_names": [name], "tensors": [array], "shape_and_slices": [""]}
            tf.raw_ops.SaveV2(prefix=prefixes[-1], **one)
        paths = {"checkpoint_prefixes": prefixes, "destination_prefix": whole}
        tf.raw_ops.MergeV2Checkpoints(**paths, delete_old_dirs=False)
    return folder / "vgg_16.ckpt"


# %% 2. Loading by name
# Two networks rarely have just the same weights. Where name and shape agree, an array
# is loaded. All else must be reported: a layer whose name is spelt a little differently
# would stay untrained, and nobody would know why the answers are poor.


def load_by_name(title: str, variables: Mapping, arrays: Arrays) -> dict:
    """Assign arrays to the variables of the same name and shape, in their dtype.

    Prints and returns the names of what is `loaded`, `of another shape`, `unexpected`
    because there is no such variable, and `missing` among the arrays.
    """
    found = {"loaded": [], "of another shape": [], "unexpected": []}
    for name, array in arrays:
        if name not in variables:
            found["unexpected"].append(name)
        elif array.shape != variables[name].shape:
            found["of another shape"].append(name)
        else:
            variables[name].assign(array.astype(variables[name].dtype.as_numpy_dtype))
            found["loaded"].append(name)
    found["missing"] = sorted(set(variables).difference(*found.values()))
    print(f"   {title}: {len(found['loaded'])} loaded")
    for kind in ("of another shape", "unexpected", "missing"):
        if found[kind]:
            print(f"      {kind}:", *found[kind])
    return found


# %% 3. Half the space: float16
# A float32 has 24 binary digits. A float16 has 11, ends at 65,504, and has ever fewer
# digits below $6 \cdot 10^{-5}$. Weights are found by small, noisy steps, and do not
# need what is lost. Only storage is halved: loaded, they become float32 again.


def as_float16(arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Round arrays to float16, one after another."""
    for name, array in arrays:
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise WeightsError(f"{name} holds a number that is too large for float16")
        yield name, half


# %% 4. Keras' file
# A .weights.h5 file is in the HDF5 format: folders of arrays, in one file. Keras counts
# the layers of a class: `layers/conv2d/vars/0` is the kernel of the first convolution,
# `vars/1` its bias, `layers/conv2d_1/vars/0` the kernel of the second.
#
# * Dense layers: TF-slim's fc6 is a convolution whose kernel covers the whole last
#   image, (7, 7, 512, 4096). Keras writes this image out in one row and multiplies by a
#   matrix, (25088, 4096). The kernel's first three axes run through its numbers in just
#   this order: no number moves. (PyTorch differs, see example 12.)
# * Colours: the published VGG16 takes blue, green, red, in Keras still; TF-slim's red,
#   green, blue. The first kernel's axis of channels is turned around.


def keras_places(config: vgg16.Config) -> dict[str, str]:
    """Return where in Keras' file each weight is, by TF-slim's names."""
    places = {}
    for number, name in enumerate(config.shapes()):  # a kernel, its bias, a kernel ...
        kind, first = ("dense", 26) if "/fc" in name else ("conv2d", 0)
        layer = f"{kind}_{(number - first) // 2}".removesuffix("_0")
        places[name] = f"layers/{layer}/vars/{number % 2}"
    return places


def write_keras(path: Path, arrays: Arrays, config: vgg16.Config) -> Path:
    """Write the file that Keras would write of its VGG16, array by array."""
    places = keras_places(config)
    with cli.replacing(path) as part, h5py.File(part, "w") as file:
        for name, array in tqdm(arrays, path.name, leave=False):
            if name == FIRST_KERNEL:
                array = array[:, :, ::-1]  # red, green, blue to blue, green, red
            elif array.ndim == 4 and "/fc" in name:
                array = array.reshape(-1, array.shape[-1])  # to (25088, 4096)
            file[places[name]] = array
    return path


# %% Keras' network
# The file holds arrays and no layers: who loads it builds the same layers first. If one
# were missing, Keras would count differently, and refuse the file.


def keras_vgg16(config: vgg16.Config) -> tf.keras.Model:
    """Build VGG16 of Keras' layers; tf.keras.applications has only the full size."""
    layers = tf.keras.layers
    stack = [tf.keras.Input((config.image_size, config.image_size, 3))]
    for block, count in enumerate(vgg16.CONVOLUTIONS):
        filters = config.width * min(2**block, 8)
        for _ in range(count):
            stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        stack.append(layers.MaxPooling2D())
    if config.dense:
        dense = [layers.Dense(config.dense, activation="relu") for _ in range(2)]
        stack += [layers.Flatten(), *dense]
    else:
        stack[-1] = layers.GlobalAveragePooling2D()  # of the last convolution: "mean5"
    if config.classes:
        stack.append(layers.Dense(config.classes))
    return tf.keras.Sequential(stack)


# %% The same answers
# Whether a file is right is seen in what comes out of a network: each side prepares the
# same photographs in its own way.


def get_crops(size: int, seed: int) -> np.ndarray:
    """Return crops of scikit-learn's two photographs, uint8 (N, size, size, 3)."""
    photographs = load_sample_images().images  # two, uint8 (427, 640, 3)
    corners = np.random.default_rng(seed).integers(0, 427 - size, (CROPS, 2))
    return np.array([photographs[y % 2][y:, x:][:size, :size] for y, x in corners])


def predict_with_ours(network: vgg16.VGG16, images: np.ndarray) -> np.ndarray:
    """Return float32 logits or features, (N, F), of uint8 images (N, size, size, 3)."""
    size = network.config.image_size
    compute = network if network.config.classes else network.features
    return predict(lambda x: compute(vgg16.preprocess(x, size)), images, BATCH)


def predict_with_keras(path: Path, config: vgg16.Config, images) -> np.ndarray:
    """Let Keras load a file of its own, prepare images in its own way, and predict."""
    model = keras_vgg16(config)
    model.load_weights(path)
    inputs = tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    return model.predict(inputs, BATCH, verbose=0)


# %% There and back
# What two converters have written must be the same again, bit by bit.


def convert(path: Path, folder: Path) -> tuple[Path, Path]:
    """Convert a file to .npz and to a checkpoint; compare every bit; return both."""
    npz = write_npz(folder / "vgg_16.npz", vgg16_files.each_array(path))
    again = write_checkpoint(folder / "checkpoint", read_npz(npz))
    files = vgg16_files.each_array(path), read_npz(npz), vgg16_files.each_array(again)
    if len(set(map(vgg16.weights_digest, files))) > 1:
        raise WeightsError(f"{folder} holds something else: is the disk sound?")
    return npz, again.parent


def load(npz: Path) -> vgg16.VGG16:
    """Load all weights into a network, then all but the top, as for other classes."""
    shapes = {name: tf.TensorSpec(array.shape) for name, array in read_npz(npz)}
    config = vgg16.Config.of(shapes, pooling=("mean5",))
    network = vgg16.VGG16(vgg16.random_weights(config, 0), config)
    found = load_by_name("all", network.weights, read_npz(npz))
    if len(found["loaded"]) < len(network.weights) or found["unexpected"]:
        raise WeightsError(f"{npz} does not hold the weights of a VGG16")
    below = {n: v for n, v in network.weights.items() if "/fc8/" not in n}
    load_by_name("all but the top", below, read_npz(npz))
    return network


# %% Run
# Each step prints what came of it; differences are shares of the largest output.


def main(argv: list[str] | None = None) -> dict:
    """Convert the weights to each format and back, compare, and return the metrics."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--weights", default="full", metavar="full|blocks|PATH")
    parser.add_argument("--seed", type=cli.number(int, 0, 2**31 - 1), default=0)
    args = parser.parse_args(argv)
    device.start("float32")
    tf.config.experimental.enable_tensor_float_32_execution(False)  # 3 digits, on GPUs
    folder, sample = args.models_dir / NAME, sample_vgg16.checkpoint
    path = pretrained.find_vgg16(args.weights, args.data, args.data_dir, sample)
    print(f"1. {cli.shown(path)} to .npz and to a checkpoint")
    npz, again = convert(path, folder)
    print("2. by name")
    network = load(npz)
    images = get_crops(network.config.image_size, args.seed)
    began = time.perf_counter()
    outputs = predict_with_ours(network, images)
    speed, largest = CROPS / (time.perf_counter() - began), np.abs(outputs).max()
    print("3. float16")
    half = write_npz(folder / "vgg_16_float16.npz", as_float16(read_npz(npz)))
    load_by_name("float16", network.weights, read_npz(half))
    rounded, answers = predict_with_ours(network, images), outputs.argmax(axis=1)
    change = np.abs(rounded - outputs).max() / largest
    print(f"   {half.stat().st_size:,} bytes; outputs change by {change:.1e} at most")
    print("4. Keras")
    keras = write_keras(folder / "vgg_16.weights.h5", read_npz(npz), network.config)
    theirs = predict_with_keras(keras, network.config, images)
    metrics = {
        "data": "crops of photographs, float16; correct: what float32 says",
        "weights": cli.shown(path),
        "test_accuracy": float(np.mean(rounded.argmax(axis=1) == answers)),
        "largest_change_of_an_output": float(change),
        "largest_difference_to_keras": float(np.abs(theirs - outputs).max() / largest),
        "parameters": count_parameters(network),
        "images_per_second": round(speed, 1),
        "train_seconds": 0.0,
    }
    files = [npz, again, half, keras]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * Read vgg_16.npz with `dict(np.load(...))`: how long does it take, how much memory?
# * Round to fewer digits still, 8 bits and a scale for each channel: what is left?
# * Examples 07 and 11 take a file of yours, too: `--weights vgg_16.npz`.

if __name__ == "__main__":
    cli.run(main)
