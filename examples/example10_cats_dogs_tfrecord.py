"""Example 10: cats and dogs, from photographs through TFRecord shards into a network.

You will learn how to feed a network from files: thousands of photographs of any size,
some of them broken, become a few shards of small images; a tf.data pipeline reads,
shuffles, decodes and augments them while the network learns; and where the time goes.

    python examples/example10_cats_dogs_tfrecord.py                # downloads 825 MB
    python examples/example10_cats_dogs_tfrecord.py --small        # downloads 69 MB
    python examples/example10_cats_dogs_tfrecord.py --data sample  # offline, drawings
    python examples/example10_cats_dogs_tfrecord.py --photos PATH  # your own

`PATH` is a folder with a sub-folder of photographs for each class, two or more.
Kaggle's train.zip, or a part of it, is used if it lies in datasets/downloads/cats_dogs.
The pipeline follows TensorFlow's guide (https://www.tensorflow.org/guide/data); network
and steps are those of example 14, which explains them and says whose they are.
docs/results.md has the measured results. Before this one: example 09, asking a server
for predictions. After it: example 11, the same photographs and borrowed knowledge.
"""

import hashlib
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import cv2
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from datasets import cats_dogs
from datasets.photographs import Photographs
from datasets.pictures import decode
from examples.helpers.run import Run
from models import airbench
from models.augmentation import ten_views, warp, whole
from models.training import accuracy, count_parameters, one_cycle, predict, scores

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 20, 64
LEARNING_RATE, WARM_UP = 0.12, 0.1  # at the peak; share of the steps in which it rises
VALIDATION_SHARE = 20  # one in so many is held back; to make choices, 4
SIDE, SIZE = 128, 96  # pixels: of a stored image, of what the network sees
QUALITY, SHARD = 90, 200  # of a stored JPEG file, of 100; images in a shard
VERSION = 1  # of what is done to a photograph: one more when `shrink` changes
READERS, SHUFFLED = 4, 2000  # shards read side by side, records to draw from
CHANNELS = (32, 64, 128, 128)  # of the four stages, each of two convolutions
TIMED, TIMED_SECONDS = 400, 0.5  # images, and seconds at least, for each measurement

UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False  # tuning itself may hold up the end of a data set

# %% Records
# To decode and shrink a photograph anew in every epoch would take more than half as
# long as the network. So it is done once, and each small image becomes a record of a
# TFRecord file (example 02): one long file is read faster than thousands of short ones.


def shrink(jpeg: bytes) -> bytes:
    """Turn a photograph in any format into a JPEG file of SIDE x SIDE pixels."""
    image = decode(jpeg)  # (H, W, 3)
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return tf.io.encode_jpeg(image, quality=QUALITY).numpy()


def as_record(jpeg: bytes, label: int) -> bytes:
    """Pack an image and its label as a tf.train.Example, a dictionary of lists."""
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(jpeg)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


# %% Shards
# Several long files, *shards*, can be read side by side, and in a new order, which is
# half of shuffling. A shard gets its name when it is whole: a run that was killed goes
# on at the next one.


def is_whole(path: Path, count: int) -> bool:
    """Read a shard, checksums included, and tell whether it has so many records."""
    try:
        return sum(1 for _ in tf.data.TFRecordDataset(str(path))) == count
    except tf.errors.OpError:  # there is none, or it is damaged
        return False


def make_shards(data: Photographs, part: str, chosen, folder: Path):
    """Write photographs to shards that are named after all that they depend on."""
    paths, bar = [], tqdm(total=len(chosen), desc=part, leave=False, delay=2)
    with ThreadPoolExecutor(device.cores()) as pool, bar:
        for start in range(0, len(chosen), SHARD):
            group = chosen[start : start + SHARD]
            checksums = [data.checksum(photograph) for photograph in group]
            source = repr((VERSION, SIDE, QUALITY, group, checksums)).encode()
            digest = hashlib.sha256(source).hexdigest()[:16]
            path = folder / f"{part}-{start:06}-{digest}.tfrecord"
            paths.append(str(path))
            if not is_whole(path, len(group)):
                # What takes long releases Python's lock, so that threads use all cores.
                images = pool.map(lambda each: shrink(data.read(each)), group)
                with cli.replacing(path) as new, tf.io.TFRecordWriter(str(new)) as file:
                    for image, photograph in zip(images, group, strict=True):
                        file.write(as_record(image, photograph.label))
            bar.update(len(group))
    return paths


# %% Pipeline
# A tf.data.Dataset is a recipe; nothing happens until somebody iterates over it. This
# one reads four shards in turn (interleave), draws each next record from a heap of
# 2,000 (shuffle), decodes it, collects batches, augments these, and keeps two ready
# while the network works (prefetch). It shuffles before it decodes: JPEG takes a ninth
# of the memory. The order of an epoch depends on the seed and its number alone: to go
# on in the middle, training skips what has been seen, and gets the same batches.


def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn a record into an image, uint8 (SIDE, SIDE, 3), and its label, int32."""
    types = {"image": tf.string, "label": tf.int64}
    features = {name: tf.io.FixedLenFeature([], kind) for name, kind in types.items()}
    example = tf.io.parse_single_example(record, features)
    image = tf.io.decode_jpeg(example["image"], channels=3)
    return tf.ensure_shape(image, [SIDE, SIDE, 3]), tf.cast(example["label"], tf.int32)


def training_batches(shards, seed, epochs, batch_size, steps, step=0):
    """Return a data set of the batches from the step `step` on, `steps` in an epoch."""

    def records(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(shards, [seed, epoch])
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset, cycle_length=READERS, num_parallel_calls=READERS
        )
        mixed = records.shuffle(SHUFFLED, seed * epochs + epoch, False)
        return mixed.take(steps * batch_size)  # the rest waits for another epoch

    tf.random.set_seed(1)  # `shuffle` mixes it with its own; 0 does not work there
    data = tf.data.Dataset.range(step // steps, epochs).flat_map(records)
    data = data.skip(step % steps * batch_size)
    data = data.map(parse, device.cores())
    data = data.batch(batch_size, drop_remainder=True)
    data = data.enumerate(step).map(lambda i, b: augment(*b, seed, i), device.cores())
    return data.prefetch(2).with_options(UNTUNED)


def read_all(shards: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of shards, uint8 (N, SIDE, SIDE, 3), and labels, int32 (N,)."""
    data = tf.data.TFRecordDataset(shards).map(parse, device.cores())
    images, labels = zip(*data.with_options(UNTUNED).as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


# %% Augmentation
# From a few thousand photographs, a network learns by heart which one is which, unless
# it never sees one twice: turned, stretched, mirrored, moved, nearer, in other light.

# At most: resized, stretched (logarithms), turned (radians), moved (shares), mirrored.
LIMITS = [[0.25], [0.1], [0.2], [0.1], [0.1], [1]]
COLOUR = 0.2  # by how much contrast and colours change at most


def augment(images: tf.Tensor, labels: tf.Tensor, seed: int, step: tf.Tensor):
    """Change uint8 images (N, SIDE, SIDE, 3) as seed and step say; keep the labels."""
    count, seeds = tf.shape(images)[0], tf.stack([seed, step])
    amounts = LIMITS * tf.random.stateless_uniform([6, count], seeds, -1, 1)
    images = tf.cast(warp(images, SIZE, amounts), tf.float32)
    amounts = tf.random.stateless_uniform([count, 1, 1, 4], seeds + 1, -COLOUR, COLOUR)
    contrast, tint = tf.split(amounts, [1, 3], axis=-1)
    images = (images - 128) * tf.exp(contrast) + 128 + 128 * tint
    return tf.cast(tf.clip_by_value(images, 0, 255), tf.uint8), labels


# %% Model
# The network and the steps of example 14, for larger images: whitening takes patches of
# 4 x 4 pixels, two apart, which halves height and width, and keeps 24 of 48 components.


def make_network(images: np.ndarray, classes, dtype, seed: int) -> airbench.Network:
    """Return a network; `images`, uint8 (N, SIDE, SIDE, 3), are some to learn from."""
    images, more = whole(images, SIZE), (classes, dtype, seed)
    mean, kernels = airbench.whitening_kernels(images, 4, stride=3, components=24)
    network = airbench.Network(mean, kernels, CHANNELS, *more, stride=2, keep=0.9)
    print(f"{count_parameters(network):,} parameters")
    return network


# %% Where the time goes
# The same images, got at in several ways. Training is as fast as the slower of pipeline
# and network. On a CPU both want the same cores: what one takes, the other lacks.


def images_per_second(batches: tf.data.Dataset) -> float:
    """Iterate over batches for a while, and return how many images came in a second."""
    iterator = iter(batches.repeat().with_options(UNTUNED))
    next(iterator)  # to build and fill the pipeline is not counted
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < TIMED_SECONDS:
        count += len(tf.nest.flatten(next(iterator))[0])
    return count / seconds


def measure(data, shards: list[str], pipeline, learning: float) -> dict[str, int]:
    """Return how many images a second can be had, by the way in which they are got."""
    chosen, started = data.train[:TIMED], time.perf_counter()
    with ThreadPoolExecutor(device.cores()) as pool:
        small = list(pool.map(lambda each: shrink(data.read(each)), chosen))
    shrunk = len(small) / (time.perf_counter() - started)
    records = tf.data.TFRecordDataset(shards)
    decoded = records.map(parse, device.cores())
    with tempfile.TemporaryDirectory(dir=Path(shards[0]).parent) as folder:
        for number, image in enumerate(small):
            (Path(folder) / str(number)).write_bytes(image)
        files = tf.data.Dataset.list_files(f"{folder}/*").map(tf.io.read_file)
        ways = {
            "records, each read from a file of its own": files.batch(BATCH_SIZE),
            "records, read from shards": records.batch(BATCH_SIZE),
            "records, read from shards and decoded": decoded.batch(BATCH_SIZE),
            "whole pipeline": pipeline,
        }
        speeds = {way: images_per_second(batches) for way, batches in ways.items()}
    speeds = {"photographs, decoded and shrunk": shrunk} | speeds
    speeds["whole pipeline, with the network learning from it"] = learning
    print("images a second:", *(f"\n{speeds[way]:9,.0f}  {way}" for way in speeds))
    return {way: round(speed) for way, speed in speeds.items()}


# %% Run
# Stopping and continuing is explained in example 06.


def train(run: Run, training, shards: list[str], validation, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    order = args.seed, args.epochs, args.batch_size, run.steps_per_epoch
    batches = iter(training_batches(shards, *order, run.step))
    images, labels = validation
    for _ in run:
        for _ in run.steps():
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            run.record(training.step(*next(batches), rate))
        logits = predict(training.network, whole(images, SIZE))
        run.validate(scores(logits, labels, airbench.LABEL_SMOOTHING))


# %% Main program
# Which shards there are decides the result, so their names are among the settings.


def main(argv: list[str] | None = None) -> dict:
    """Make shards, train, evaluate, draw, and return the metrics."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument("--small", action="store_true", help="3,000 photographs")
    parser.add_argument("--photos", type=Path, metavar="PATH", help="your own")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    where = args.data, args.data_dir, args.small, args.photos
    data = cats_dogs.load(*where, VALIDATION_SHARE)
    count, classes = len(data.train[: args.train_images]), len(data.class_names)
    args.batch_size = min(args.batch_size, count)  # one's own may be few
    print(data.summary(count))
    parts = {"train": data.train[:count], "validation": data.validation}
    parts, where = parts | {"test": data.test}, folder / "shards"
    shards, validation, test = (make_shards(data, *p, where) for p in parts.items())
    network = make_network(read_all(shards[:1])[0], classes, dtype, args.seed)
    training, steps = airbench.Training(network), count // args.batch_size
    settings = cli.settings(args, dtype)
    named = settings | {"shards": [Path(shard).name for shard in shards]}
    run = Run(folder, named, __file__, args.epochs, steps, args.restart, net=training)
    train(run, training, shards, read_all(validation), args)
    images, labels = read_all(test)
    views = np.stack([predict(network, view) for view in ten_views(images, SIZE)])
    probabilities = tf.nn.softmax(views.mean(axis=0)).numpy()
    batches = training_batches(shards, args.seed, args.epochs, args.batch_size, steps)
    metrics = settings | run.metrics(args.batch_size)
    speeds = measure(data, shards, batches, metrics["images_per_second"])
    metrics |= {
        "data": data.name,
        "left_out": len(data.left_out),
        "test_accuracy": float(accuracy(probabilities, labels)),
        "test_accuracy_from_one_view": float(accuracy(views[0], labels)),
        "images_per_second_by_way": speeds,
        "parameters": count_parameters(network),
    }
    answers = images, labels, probabilities, data.class_names
    files = report.plot_results(folder, NAME, metrics["history"], *answers)
    augmented, page = next(iter(batches))[0], folder / "augmented.png"
    files += [report.plot_images(augmented[:32], page, NAME), where, run.folder]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * A number of `LIMITS`, or `COLOUR`, 0: which one helps most? Look at augmented.png.
# * `SIZE = 64` or 128: what do more pixels cost, and what do they bring?
# * Decode before shuffling, or do not prefetch: what becomes of the images a second?

if __name__ == "__main__":
    cli.run(main)
