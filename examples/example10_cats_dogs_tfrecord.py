"""Example 10: cats and dogs, from photographs through TFRecord shards into a network.

You will learn how to feed a network from files. Thousands of photographs of any size, some of them
broken, become a few shards of small images; a pipeline reads, shuffles, decodes and augments them
while the network learns; and you will see where the time goes.

    python examples/example10_cats_dogs_tfrecord.py                  # downloads 825 MB once
    python examples/example10_cats_dogs_tfrecord.py --small          # downloads 69 MB once
    python examples/example10_cats_dogs_tfrecord.py --data sample    # offline, on drawn faces

Who has Kaggle's train.zip, or a part of it, lays it in datasets/downloads/cats_dogs.

The README has the measured results, each with its machine, versions, seed and time.

Before this one: example 09, asking a server for predictions. After it: example 11, the same
photographs and a network that has already learned from others.
"""

import concurrent.futures
import hashlib
import inspect
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import cv2
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from datasets import cats_dogs

NAME = Path(__file__).stem
EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 0.12  # of the kernels, at the peak of the cycle
VALIDATION_SHARE = 20  # one in so many is held back; to make choices, 4
SIDE = 128  # pixels: height and width of a stored image
SIZE = 96  # pixels: height and width of what the network sees
QUALITY = 90  # of a stored JPEG file, of 100
SHARD = 200  # images in a shard: what a kill loses at most
READERS = 4  # shards that are read side by side
SHUFFLED = 2000  # records among which the next one is drawn
ZOOM, ASPECT = (
    0.25,
    0.1,
)  # logarithms: by how much an image is resized and stretched at most
ANGLE, SHIFT = (
    0.2,
    0.1,
)  # radians by which it is turned, share of its side by which it is moved
COLOUR = 0.2  # by how much contrast and colours change at most
COMPONENTS = 24  # of the 48 numbers in a patch of 4 x 4 pixels, those that vary most
NOISE = 2.0  # variance below which a component is not worth blowing up, in squared pixel values
CHANNELS = (32, 64, 128, 128)  # of the four stages, each of two convolutions
HEAD_RATE = 20.0  # so many times the kernels' is the learning rate of the dense layer
OFFSET_RATE = 160.0  # and that of the offsets of batch normalisation
MOMENTUM = 0.6
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.2
WARM_UP = (
    0.1  # share of the steps in which the learning rate rises; then it falls to zero
)
KEEP = 0.9  # share of the old moving average that is kept in every step
LOGIT_SCALE = (
    1 / 9
)  # small logits at the start, so that the high learning rate does no harm
TIMED = 400  # images that are read and decoded in several ways
TIMED_SECONDS = 0.5  # for each way, at least

# %% Shards
# A photograph has about 400 x 400 pixels, and the network sees 96 x 96. To decode and shrink it
# anew in every epoch would take more than half as long as the network itself, on the same cores. So
# it is done once. OpenCV, Pillow and TensorFlow can all do it, not equally fast, and not with the
# same pixels: tests/benchmarks/bench_image_decoding.py compares them.
#
# The small images go into TFRecord files: record after record, each with its length and checksums,
# as example 02 explains. One long file is read faster than thousands of short ones, above all from
# a hard disk or over a network. Several long files, called shards, can be read side by side, and
# reading them in a new order is half of shuffling. A shard gets its name when it is whole: a run
# that was killed goes on at the next missing one. One that is damaged is known by its checksums,
# and made anew.


def shrink(jpeg: bytes) -> bytes:
    """Turn a photograph, a JPEG file, into one of SIDE x SIDE pixels, whatever its shape."""
    image = cats_dogs.decode(jpeg)  # (H, W, 3)
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return tf.io.encode_jpeg(image, quality=QUALITY).numpy()


def as_record(jpeg: bytes, label: int) -> bytes:
    """Pack an image and its label as a tf.train.Example, a dictionary of lists."""
    example = tf.train.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(jpeg)
    feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


def is_whole(path: Path, count: int) -> bool:
    """Read a shard, checksums included, and tell whether it has so many records."""
    try:
        return sum(1 for _ in tf.data.TFRecordDataset(str(path))) == count
    except tf.errors.OpError:  # there is none, or it is damaged
        return False


def make_shards(
    photographs: cats_dogs.Photographs, chosen, title: str, folder: Path
) -> list[str]:
    """Write photographs to shards, as far as these are not there, and return their paths.

    A shard is named after all that it depends on: other photographs, or other sizes, never meet old
    shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = {}
    for start in range(0, len(chosen), SHARD):
        group = chosen[start : start + SHARD]
        checksums = [photographs.checksum(photograph) for photograph in group]
        source = repr((group, checksums, SIDE, QUALITY, inspect.getsource(shrink)))
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        groups[folder / f"{title}-{start:06}-{digest}.tfrecord"] = group
    missing = {
        path: group for path, group in groups.items() if not is_whole(path, len(group))
    }

    def convert(photograph: cats_dogs.Photograph) -> bytes:
        return as_record(shrink(photographs.read(photograph)), photograph.label)

    count = sum(map(len, missing.values()))
    bar = tqdm(
        total=count,
        desc=f"{title} shards",
        unit=" images",
        leave=False,
        disable=not count,
    )
    # Decoding, resizing and encoding release Python's lock, so that threads use all cores.
    with concurrent.futures.ThreadPoolExecutor(common.cores()) as pool, bar:
        for path, group in missing.items():
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            try:
                with tf.io.TFRecordWriter(str(part)) as file:
                    for record in pool.map(convert, group):
                        file.write(record)
                        bar.update()
            except tf.errors.OpError as error:
                reason = error.message.splitlines()[0]
                raise common.UserError(
                    f"cannot write to {common.shown(folder)}: {reason}"
                ) from error
            os.replace(part, path)
    return [str(path) for path in groups]


# %% Pipeline
# A tf.data.Dataset is a recipe; nothing happens until somebody iterates over it. This one reads
# four shards in turn (interleave), draws each next record from a heap of 2,000 (shuffle), decodes
# it, collects batches, augments these, and keeps two batches ready while the network works on
# another one (prefetch). Records are shuffled before they are decoded: a JPEG file of 6 kB takes a
# ninth of the memory of its pixels.
#
# One recipe covers all epochs, each in its own order, which depends on the seed and the epoch's
# number alone. So training that goes on in the middle of an epoch skips what has been seen, and
# gets just the batches that it would have got.


def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn a record into an image, uint8 (SIDE, SIDE, 3), and its label, int32."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    image = tf.io.decode_jpeg(example["image"], channels=3)
    return tf.ensure_shape(image, [SIDE, SIDE, 3]), tf.cast(example["label"], tf.int32)


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """Switch off tf.data's tuning of itself, which may hold up the end of a data set."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def training_batches(shards: list[str], args, step: int, steps: int) -> tf.data.Dataset:
    """Return all batches from the one of the step `step` on, with `steps` in an epoch.

    A batch is uint8 images (N, SIZE, SIZE, 3) and int32 labels (N,).
    """

    def records(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            shards, tf.stack([args.seed, epoch])
        )
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset, cycle_length=READERS, num_parallel_calls=READERS
        )
        seed = args.seed * args.epochs + epoch
        records = records.shuffle(SHUFFLED, seed, reshuffle_each_iteration=False)
        return records.take(
            steps * args.batch_size
        )  # what is left over waits for another epoch

    def augmented(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]):
        return augment(batch[0], tf.stack([args.seed, step])), batch[1]

    tf.random.set_seed(
        1
    )  # `shuffle` mixes it with the seed it is given; 0 does not work there
    data = tf.data.Dataset.range(step // steps, args.epochs).flat_map(records)
    data = data.skip(step % steps * args.batch_size)
    data = data.map(decode, num_parallel_calls=common.cores())
    data = data.batch(args.batch_size, drop_remainder=True)
    data = data.enumerate(step).map(augmented, num_parallel_calls=common.cores())
    return untuned(data.prefetch(2))


def read_all(shards: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of some shards, uint8 (N, SIDE, SIDE, 3), and labels, int32 (N,)."""
    data = tf.data.TFRecordDataset(shards).map(
        decode, num_parallel_calls=common.cores()
    )
    images, labels = zip(*untuned(data).as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


# %% Augmentation
# From a few thousand photographs, a network learns by heart which one is which. It cannot when it
# never sees one twice: each is turned, stretched, mirrored, moved, seen from nearer or farther, and
# in other light. A cat stays a cat.


def warp(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Look at images through a frame that is resized, stretched, turned, moved and mirrored.

    Args:
        images: uint8 (N, SIDE, SIDE, 3).
        amounts: float32 (6, N), all 0 for the whole image as it is: logarithm of the frame's size,
            of its stretch; angle in radians; place to the right and down, as shares of the side;
            mirrored if above 0.

    Returns:
        What is in the frame, uint8 (N, SIZE, SIZE, 3). Beyond the border comes the reflection.
    """
    zoom, stretch, angle, right, down, mirror = tf.unstack(amounts)
    width, height = (tf.exp(zoom + s) * (SIDE / SIZE) for s in (stretch, -stretch))
    width *= tf.where(mirror > 0, -1.0, 1.0)
    # Pixel (x, y) of the result is pixel (a x + b y + c, d x + e y + f) of the image.
    a, b = width * tf.cos(angle), -height * tf.sin(angle)
    d, e = width * tf.sin(angle), height * tf.cos(angle)
    middle, zero = (SIZE - 1) / 2, tf.zeros_like(a)
    c = (SIDE - 1) / 2 + SIDE * right - (a + b) * middle
    f = (SIDE - 1) / 2 + SIDE * down - (d + e) * middle
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=[SIZE, SIZE],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Warp uint8 images (N, SIDE, SIDE, 3) and change their colours; `seed` is int64 (2,)."""
    count = tf.shape(images)[0]
    limits = tf.constant([ZOOM, ASPECT, ANGLE, SHIFT, SHIFT, 1])
    images = warp(
        images, limits[:, None] * tf.random.stateless_uniform([6, count], seed, -1, 1)
    )
    amounts = COLOUR * tf.random.stateless_uniform([count, 1, 1, 4], seed + 1, -1, 1)
    contrast, tint = tf.split(amounts, [1, 3], axis=-1)
    images = (tf.cast(images, tf.float32) - 128) * tf.exp(contrast) + 128 + 128 * tint
    return tf.cast(tf.clip_by_value(images, 0, 255), tf.uint8)


# %% Model
# The network of example 06, for larger images: the whitening takes patches of 4 x 4 pixels in steps
# of two, so that it halves height and width, and keeps half of their components; there are four
# stages in place of three; and at the end comes the mean over the image.


class Network(tf.Module):
    """The variables, all float32, and the way from images to logits, computed in `dtype`."""

    def __init__(self, images: np.ndarray, dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.mean, self.whitening = whitening_kernels(images)
        self.kernels, self.offsets, self.moving_means, self.moving_variances = (
            [],
            [],
            [],
            [],
        )
        inputs = self.whitening.shape[-1]
        for outputs in np.repeat(CHANNELS, 2):
            kernel = rng.uniform(-1, 1, (3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
            same = min(
                inputs, outputs
            )  # the first outputs begin as copies of the inputs
            kernel[..., :same] = 0
            kernel[1, 1, range(same), range(same)] = 1
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            self.offsets.append(tf.Variable(tf.zeros(outputs)))
            self.moving_means.append(tf.Variable(tf.zeros(outputs), trainable=False))
            self.moving_variances.append(tf.Variable(tf.ones(outputs), trainable=False))
            inputs = outputs
        head = rng.uniform(-1, 1, (inputs, len(cats_dogs.CLASS_NAMES))) / np.sqrt(
            inputs
        )
        self.head = tf.Variable(head, dtype=tf.float32)

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Compute float32 logits (N, 2) from uint8 images (N, SIZE, SIZE, 3)."""
        x = tf.cast(images, self.dtype) - tf.cast(self.mean, self.dtype)
        x = tf.nn.conv2d(
            x, tf.cast(self.whitening, self.dtype), 2, "SAME"
        )  # (N, 48, 48, 24)
        for layer, kernel in enumerate(self.kernels):
            x = tf.nn.conv2d(x, tf.cast(kernel, self.dtype), 1, "SAME")
            if (
                layer % 2 == 0
            ):  # (N, 24, 24, 32), (N, 12, 12, 64), (N, 6, 6, 128), (N, 3, 3, 128)
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            x = tf.nn.relu(self.batch_normalisation(x, layer, training))
        x = tf.cast(tf.reduce_mean(x, axis=[1, 2]), tf.float32)  # (N, 128)
        return tf.matmul(x, self.head) * LOGIT_SCALE  # (N, 2)

    @tf.function(reduce_retracing=True)
    def infer(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits as outside of training, compiled once for all batches."""
        return self(images, training=False)

    def batch_normalisation(
        self, x: tf.Tensor, layer: int, training: bool
    ) -> tf.Tensor:
        """Normalise each channel by the batch in training, else by moving averages."""
        mean, variance = self.moving_means[layer], self.moving_variances[layer]
        given = {} if training else {"mean": mean, "variance": variance}
        offset = self.offsets[layer]
        x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            x, tf.ones_like(offset), offset, epsilon=1e-5, is_training=training, **given
        )
        if training:
            mean.assign(KEEP * mean + (1 - KEEP) * batch_mean)
            variance.assign(KEEP * variance + (1 - KEEP) * batch_variance)
        return x


def whitening_kernels(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the fixed first layer from some images, uint8 (N, SIZE, SIZE, 3).

    Returns:
        The mean of each colour, rounded, float32 (3,), and kernels, float32 (4, 4, 3, 24).
    """
    mean = images.mean(axis=(0, 1, 2)).round().astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(
        images - mean, (4, 4), axis=(1, 2)
    )
    patches = (
        patches[:, ::3, ::3].transpose(0, 1, 2, 4, 5, 3).reshape(-1, 48)
    )  # a ninth will do
    variances, components = np.linalg.eigh(
        np.cov(patches, rowvar=False)
    )  # the largest come last
    kernels = (components / np.sqrt(variances + NOISE))[
        :, -COMPONENTS:
    ]  # one in each column
    return mean, kernels.reshape(4, 4, 3, COMPONENTS).astype(np.float32)


# %% Training step
# Loss and update rule are those of example 06, which explains them: cross-entropy with smoothed
# labels; Nesterov momentum; and the step of a kernel is made equally long in all directions.


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, C) and labels (N,), averaged over the batch."""
    classes = logits.shape[-1]
    targets = (
        tf.one_hot(labels, classes) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / classes
    )
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def orthogonal(matrix: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return about U V^T, computed in `dtype`, for a float32 matrix U S V^T."""
    matrix = tf.cast(matrix / (tf.norm(matrix) + 1e-7), dtype)
    for _ in range(3):
        square = tf.matmul(matrix, matrix, transpose_a=True)
        factor = -4.7750 * square + 2.0315 * tf.matmul(square, square)
        matrix = 3.4445 * matrix + tf.matmul(matrix, factor)
    return tf.cast(matrix, tf.float32)


def update(
    variable, velocity, gradient, learning_rate: tf.Tensor, dtype: tf.DType
) -> None:
    """Change a variable and its velocity by one step."""
    shape = variable.shape
    if shape.rank == 2:  # the dense layer
        gradient += WEIGHT_DECAY * variable
    velocity.assign(MOMENTUM * velocity + gradient)
    direction = gradient + MOMENTUM * velocity
    if shape.rank == 4:  # a kernel
        matrix = tf.reshape(direction, [-1, shape[-1]])  # (9 * inputs, outputs)
        direction = tf.reshape(orthogonal(matrix, dtype), shape)
        variable.assign(variable * (shape[-1] ** 0.5 / tf.norm(variable)))
    rate = {4: 1.0, 2: HEAD_RATE, 1: OFFSET_RATE}[shape.rank] * learning_rate
    variable.assign_sub(rate * direction)


class Training(tf.Module):
    """Everything that changes while training, so that a checkpoint of it holds the whole state."""

    def __init__(self, network: Network, epochs: int):
        super().__init__()
        self.network = network
        self.velocities = [
            tf.Variable(tf.zeros_like(v)) for v in network.trainable_variables
        ]
        self.step = tf.Variable(0, dtype=tf.int64)
        self.sums = tf.Variable(
            tf.zeros(3, tf.float64)
        )  # loss, accuracy, seconds, of this epoch
        self.history = tf.Variable(tf.zeros([epochs, len(common.HISTORY)], tf.float64))

    @tf.function
    def train_step(
        self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor
    ) -> None:
        """Learn from one batch."""
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = mean_loss(logits, labels)
        variables = self.network.trainable_variables
        gradients = tape.gradient(loss, variables)
        for variable, velocity, gradient in zip(
            variables, self.velocities, gradients, strict=True
        ):
            update(variable, velocity, gradient, learning_rate, self.network.dtype)
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        share = tf.reduce_mean(tf.cast(right, tf.float32))
        self.sums.assign_add(tf.cast([loss, share, 0.0], tf.float64))
        self.step.assign_add(1)


def one_cycle(done: float) -> float:
    """Return the learning rate's share of its peak when the share `done` of the steps is done."""
    return min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


# %% Evaluation
# Ten views of each image are more certain than one: the whole of it, and four frames a little
# smaller, towards its corners; and the mirror images of all five.

WHOLE = (0, 0, 0, 0, 0, 0)  # what `warp` takes for the image as it is
CORNERS = [(-0.08, 0, 0, x, y, 0) for x in (-0.04, 0.04) for y in (-0.04, 0.04)]
VIEWS = [(*view[:5], mirror) for view in (WHOLE, *CORNERS) for mirror in (0, 1)]


def seen(images: np.ndarray, view: tuple[float, ...] = WHOLE) -> np.ndarray:
    """Return one view of images, uint8 (N, SIDE, SIDE, 3), in the size of (N, SIZE, SIZE, 3)."""
    amounts = np.repeat(np.float32(view)[:, None], len(images), axis=1)
    return warp(images, amounts).numpy()


def predict(
    network: Network, images: np.ndarray, view: tuple[float, ...] = WHOLE
) -> np.ndarray:
    """Return logits (N, 2) for one view of images, uint8 (N, SIDE, SIDE, 3)."""
    batches = np.split(images, range(500, len(images), 500))
    return np.concatenate([network.infer(seen(batch, view)) for batch in batches])


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows of logits (N, 2) whose largest entry is the label's."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


# %% Where the time goes
# The same images, got at in several ways. Training is as fast as the slower of two: the pipeline,
# which prepares batches, and the network, which uses them up. On a CPU both want the same cores, so
# each image that is prepared costs the network time, too.


def images_per_second(batches: tf.data.Dataset) -> float:
    """Iterate over batches for a while, and return how many images came in a second."""
    iterator = iter(untuned(batches.repeat()))
    next(iterator)  # to build and fill the pipeline is not counted
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < TIMED_SECONDS:
        count += len(tf.nest.flatten(next(iterator))[0])
    return count / seconds


def measure(
    photographs: cats_dogs.Photographs, shards: list[str], args, steps: int
) -> dict:
    """Return how many images a second can be had, by the way in which they are got."""
    chosen = photographs.train[:TIMED]
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(common.cores()) as pool:
        records = list(
            pool.map(lambda p: as_record(shrink(photographs.read(p)), p.label), chosen)
        )
    shrunk = len(chosen) / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory(dir=Path(shards[0]).parent) as folder:
        files = [f"{folder}/{number}" for number in range(len(records))]
        for file, record in zip(files, records, strict=True):
            Path(file).write_bytes(record)
        one_each = tf.data.Dataset.from_tensor_slices(files).map(tf.io.read_file)
        from_files = images_per_second(one_each.batch(args.batch_size))
    from_shards = tf.data.TFRecordDataset(shards)
    decoded = from_shards.map(decode, num_parallel_calls=common.cores())
    return {
        "photographs, decoded and shrunk": shrunk,
        "records, each read from a file of its own": from_files,
        "records, read from shards": images_per_second(
            from_shards.batch(args.batch_size)
        ),
        "records, read from shards and decoded": images_per_second(
            decoded.batch(args.batch_size)
        ),
        "whole pipeline": images_per_second(training_batches(shards, args, 0, steps)),
    }


# %% Run
# A checkpoint is written after every epoch, and on Ctrl-C after the step at hand. The same command
# goes on there and ends with the same weights as if it had never been stopped.


def train(
    training: Training, shards: list[str], validation, args, manager, steps: int
) -> None:
    """Train from the step where the checkpoint left off to the end of the last epoch."""
    batches = iter(training_batches(shards, args, int(training.step), steps))
    print(common.EPOCH_HEADING)
    with common.ctrl_c() as stop_asked:
        for epoch in range(int(training.step) // steps, args.epochs):
            before, started = training.sums[2].numpy(), time.perf_counter()
            done = int(training.step) % steps
            bar = tqdm(
                range(done, steps),
                f"epoch {epoch + 1}",
                steps,
                leave=False,
                initial=done,
            )
            for i in bar:
                share = one_cycle((epoch * steps + i + 1) / (steps * args.epochs + 1))
                rate = tf.constant(args.learning_rate * share, tf.float32)
                training.train_step(*next(batches), rate)
                training.sums[2].assign(before + time.perf_counter() - started)
                if stop_asked() and i + 1 < steps:  # a whole epoch is saved below
                    bar.close()
                    saved = common.shown(common.save(manager))
                    print(f"stopped after step {epoch * steps + i + 1}; saved {saved}")
                    raise KeyboardInterrupt
            images, labels = validation
            logits = predict(training.network, images)
            loss, right, seconds = training.sums.numpy() / (steps, steps, 1)
            row = [
                loss,
                right,
                float(mean_loss(logits, labels)),
                accuracy(logits, labels),
                seconds,
            ]
            common.report_epoch(epoch + 1, row)
            training.history[epoch].assign(row)
            training.sums.assign([0.0, 0.0, 0.0])
            common.save(manager)
            if stop_asked() and epoch + 1 < args.epochs:
                raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> dict:
    """Make shards, train, evaluate, draw, and return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add(
        "--small",
        action="store_true",
        help="download 3,000 photographs in place of 25,000",
    )
    add(
        "--restart",
        action="store_true",
        help="begin anew, whatever checkpoints there are",
    )
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)
    folder = args.models_dir / NAME

    photographs = cats_dogs.load(args.data, args.data_dir, args.small, VALIDATION_SHARE)
    count = len(photographs.train[: args.train_images])
    print(
        f"{photographs.name}: {count:,} training, {len(photographs.validation):,} validation and "
        f"{len(photographs.test):,} test images; {len(photographs.left_out):,} files left out "
        f"({common.shown(photographs.report)})"
    )
    if count < args.batch_size:
        raise common.UserError(
            f"{count} training images do not fill a batch: lower --batch-size"
        )
    shards, validation_shards, test_shards = (
        make_shards(photographs, chosen, title, folder / "shards")
        for title, chosen in (
            ("train", photographs.train[:count]),
            ("validation", photographs.validation),
            ("test", photographs.test),
        )
    )
    validation, (test_images, labels) = (
        read_all(validation_shards),
        read_all(test_shards),
    )
    network = Network(seen(read_all(shards[:1])[0]), dtype, args.seed)
    training = Training(network, args.epochs)
    parameters = sum(int(tf.size(variable)) for variable in network.trainable_variables)
    print(f"{parameters:,} parameters")

    settings = common.run_settings(args, dtype)
    run = settings | {"shards": [Path(shard).name for shard in shards]}
    checkpoints = folder / "checkpoints" / common.fingerprint(run, __file__)
    checkpoint = tf.train.Checkpoint(training=training)
    manager = common.open_checkpoints(checkpoint, checkpoints, args.restart)
    if manager.latest_checkpoint:
        print(
            f"going on after step {int(training.step)}, from {common.shown(checkpoints)}"
        )
    steps = count // args.batch_size
    train(training, shards, validation, args, manager, steps)

    views = np.stack(
        [predict(network, test_images, view) for view in VIEWS]
    )  # (10, N, 2)
    probabilities = tf.nn.softmax(views.mean(axis=0)).numpy()
    history = common.as_history(training.history)
    seconds = sum(history["seconds"])
    speed = int(training.step) * args.batch_size / seconds
    speeds = measure(photographs, shards, args, steps)
    speeds["whole pipeline, with the network learning from it"] = speed
    print("images a second:")
    for what, images in speeds.items():
        print(f"{images:9,.0f}  {what}")
    metrics = settings | {
        "data": photographs.name,
        "left_out": len(photographs.left_out),
        "test_accuracy": accuracy(probabilities, labels),
        "test_accuracy_from_one_view": accuracy(views[0], labels),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(speed),
        "images_per_second_by_way": {
            what: round(images) for what, images in speeds.items()
        },
        "parameters": parameters,
        "history": history,
    }
    title, names = f"Example 10, {photographs.name}", cats_dogs.CLASS_NAMES
    augmented, _ = next(iter(training_batches(shards, args, 0, steps)))
    files = [
        *common.plot_results(
            folder, history, test_images, labels, probabilities, names, title
        ),
        common.plot_images(
            augmented[:32], folder / "augmented.png", f"{title}: augmented"
        ),
        folder / "shards",
        checkpoints,
    ]
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * --train-images 400, 800: how does the accuracy grow with the number of photographs?
# * ZOOM, ANGLE, SHIFT or COLOUR = 0: which one helps the most? Look at augmented.png.
# * SIZE = 64 or 128: what do more pixels cost, and what do they bring?
# * Move the decoding in front of the shuffling, or leave out the prefetching: what becomes of the
#   images a second, and of the memory?
# * Store pixels (tf.io.serialize_tensor) in place of JPEG files: larger shards, no decoding.

if __name__ == "__main__":
    common.run(main)
