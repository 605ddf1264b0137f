"""Example 02: what TensorBoard shows of a training run, panel by panel.

You will learn to look inside a training run. A small network learns to read digits, and everything
is written down that TensorBoard has a panel for, from the loss to the profile of a step. The file
format behind it, TFRecord, is taken apart at the end.

    python examples/example02_tensorboard.py                  # MNIST; downloads 12 MB once
    python examples/example02_tensorboard.py --data sample    # offline, on sample data
    python examples/example02_tensorboard.py --serve          # with TensorBoard, while it trains

The README has the measured results, each with its machine, versions, seed and time.

Before this one: example 01, adding two numbers. After it: example 03, which explains networks, loss
and gradients. Here they are only something to look at.
"""

import contextlib
import importlib.util
import itertools
import os
import shlex
import sys
import threading
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import tensorflow as tf
from tqdm import tqdm

try:
    from tensorboard import program
    from tensorboard.plugins import projector
    from tensorboard.plugins.hparams import api as hp
    from tensorboard.plugins.pr_curve import summary as pr_curve
except ImportError as missing:
    sys.exit(
        f"error: TensorBoard cannot be imported ({missing}); ./setup_env.sh installs it"
    )

from datasets import mnist
from datasets.dataset import Dataset

NAME = Path(__file__).stem
EPOCHS = 3
BATCH_SIZE = 50
LEARNING_RATE = 0.2  # in the first step; it falls to zero along a straight line
UNITS = (128, 64)  # of the two hidden layers
SCALARS, HISTOGRAMS = 100, 20  # how often they are written in a run
SWEEP_RATES, SWEEP_UNITS, SWEEP_STEPS = (0.01, 0.1, 0.5), (8, 128), 100
RECORDS, PROJECTED = 1000, 1000  # images in the TFRecord file, and in the projector
PROFILED_STEPS = 5
SOUND_RATE, SOUND_SECONDS = 16_000, 2  # samples a second, length

# %% Runs and writers
# TensorBoard shows what lies below one folder, its --logdir. Each folder in it with an event file
# is a "run". What two runs write under the same "tag" is drawn into one chart: two writers, `train`
# and `validation`, that both write `loss` make a chart with two curves.
#
# Events are only ever added. Train twice into one folder, and the curves zigzag between both times;
# so every start of this script makes a new folder, and what earlier ones wrote stays.


def new_folder(parent: Path) -> Path:
    """Make and return the first of parent/001, parent/002, ... that is not there yet."""
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            folder = parent / f"{number:03}"
            folder.mkdir(parents=True)
            return folder


def make_writer(folder: Path) -> tf.summary.SummaryWriter:
    """Make the writer of a run; within `with writer.as_default():` everything goes to it."""
    return tf.summary.create_file_writer(
        str(folder), flush_millis=2000
    )  # to be seen soon


# %% Graphs
# The network as TensorFlow sees it. What is computed within one `tf.name_scope` (Keras makes one
# for each layer) is a box, which a double click opens; without them a graph is a heap of MatMuls.
# Follow the images through the layers to the loss, and the gradients back. With "Color by: Device"
# the nodes show what `tf.device` asked for: the GPU if there is one, else the CPU.


def make_network(
    units: tuple[int, ...], data: Dataset, precision: str, seed: int
) -> tf.keras.Model:
    """Make a network from uint8 images to logits (N, classes) and embeddings (N, units[-1])."""
    tf.keras.utils.set_random_seed(seed)
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    images = tf.keras.Input(data.train_images.shape[1:], dtype="uint8")
    x = tf.keras.layers.Rescaling(1 / 255, name="scale")(images)
    x = tf.keras.layers.Flatten(name="flatten")(x)
    for number, count in enumerate(units, 1):
        x = tf.keras.layers.Dense(count, "relu", name=f"hidden{number}", dtype=policy)(
            x
        )
    logits = tf.keras.layers.Dense(
        len(data.class_names), name="output", dtype="float32"
    )(x)
    return tf.keras.Model(images, [logits, x], name="network")


def loss_and_accuracy(
    logits: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the cross-entropy and the share of right answers, averaged over the images."""
    with tf.name_scope("loss"):
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        )
    with tf.name_scope("accuracy"):
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(right, tf.float32))


def make_step(network: tf.keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """Make the training step: a function of images, labels and learning rate."""

    @tf.function
    def step(images, labels, learning_rate):
        with tf.device("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"):
            with tf.GradientTape() as tape:
                loss, accuracy = loss_and_accuracy(network(images)[0], labels)
            gradients = tape.gradient(loss, network.trainable_variables)
            with tf.name_scope("update"):
                for variable, gradient in zip(
                    network.trainable_variables, gradients, strict=True
                ):
                    variable.assign_sub(learning_rate * gradient)
            return loss, accuracy, gradients

    return step


# %% Images
# Look at what goes in, with its labels, before anything else, and at what is mistaken. The slider
# above a picture goes through the epochs: the confusion matrix gathers on its diagonal.


def write_picture(tag: str, path: Path, step: int) -> None:
    """Write a picture from a PNG file; tf.summary.image has no captions, so they are drawn."""
    tf.summary.image(tag, tf.io.decode_png(path.read_bytes())[None], step)


def write_images(
    network: tf.keras.Model, data: Dataset, folder: Path, step: int
) -> None:
    """Write the confusion matrix and the mistakes, both of the validation images."""
    images, labels, names = (
        data.validation_images,
        data.validation_labels,
        data.class_names,
    )
    p, title = (
        tf.nn.softmax(network(images)[0]).numpy(),
        f"Validation images after step {step}",
    )
    matrix, mistakes = folder / "confusion_matrix.png", folder / "misclassified.png"
    common.plot_confusion_matrix(labels, p.argmax(axis=1), names, matrix, title)
    common.plot_worst_mistakes(images, labels, p, names, mistakes, title)
    write_picture("confusion_matrix", matrix, step)
    write_picture("misclassified", mistakes, step)


# %% PR Curves
# Of the images taken for a 7 with more than some probability, how many are one (precision)? And how
# many of all 7s are among them (recall)? The curve goes through all such thresholds; the closer it
# comes to the upper right corner, the better the class is told apart.


def write_pr_curves(
    probabilities: np.ndarray, labels: np.ndarray, names, step: int
) -> None:
    """Write a curve for each class, from probabilities, float32 (N, classes)."""
    for index, name in enumerate(names):
        # The plugin's operations are of TensorFlow 1; its protocol buffers fit everywhere.
        curve = pr_curve.pb(f"digit/{name}", labels == index, probabilities[:, index])
        tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step)


# %% Scalars, Distributions and Histograms
# Scalars is the panel to look at first. Loss that falls in training and rises in validation is
# overfitting; flat curves are a learning rate too low, jumping ones one too high. Whether a kink in
# the loss is one of the learning rate, its own curve tells.
#
# Distributions and Histograms both show how the numbers in a tensor are spread, moment after
# moment. Weights that stay where they are do not learn; gradients that shrink towards the first
# layer vanish.


def batches(data: Dataset, args) -> tf.data.Dataset:
    """Make an endless data set of batches: uint8 images and int32 labels, shuffled every epoch."""
    images = data.train_images[: args.train_images]
    pairs = tf.data.Dataset.from_tensor_slices(
        (images, data.train_labels[: len(images)])
    )
    pairs = pairs.shuffle(len(images), args.seed)
    return pairs.batch(args.batch_size, drop_remainder=True).repeat().prefetch(2)


def train(network: tf.keras.Model, data: Dataset, args, log: Path) -> int:
    """Train, writing what the panels above show; return the number of steps."""
    training, validation = make_writer(log / "train"), make_writer(log / "validation")
    labels, pairs, train_step = (
        data.validation_labels,
        batches(data, args),
        make_step(network),
    )
    steps_of_epoch = len(data.train_images[: args.train_images]) // args.batch_size
    steps = args.epochs * steps_of_epoch
    with training.as_default():
        graph = train_step.get_concrete_function(
            *pairs.element_spec, tf.constant(0.0)
        ).graph
        tf.summary.graph(graph)
    print("epoch   validation: loss  accuracy")
    for step, batch in enumerate(
        tqdm(pairs.take(steps), "training", steps, leave=False), 1
    ):
        rate = args.learning_rate * (1 - (step - 1) / steps)
        # For a Python number, other than a tensor, each new value would be traced to a new graph.
        loss, accuracy, gradients = train_step(*batch, tf.constant(rate))
        if not np.isfinite(loss):
            raise common.UserError(
                f"the loss is {loss:.1f} in step {step}: lower --learning-rate"
            )
        ends_epoch = step % steps_of_epoch == 0
        shows_more = ends_epoch or step % max(1, steps // HISTOGRAMS) == 0
        with training.as_default():
            if step % max(1, steps // SCALARS) == 0:
                tf.summary.scalar("loss", loss, step)
                tf.summary.scalar("accuracy", accuracy, step)
                tf.summary.scalar("learning_rate", rate, step)
            if shows_more:
                for variable, gradient in zip(
                    network.trainable_variables, gradients, strict=True
                ):
                    tf.summary.histogram(
                        variable.path, variable, step
                    )  # "hidden1/kernel"
                    tf.summary.histogram(f"{variable.path}_gradient", gradient, step)
        with validation.as_default():
            if shows_more:
                logits, _ = network(data.validation_images)
                loss, accuracy = loss_and_accuracy(logits, labels)
                tf.summary.scalar("loss", loss, step)
                tf.summary.scalar("accuracy", accuracy, step)
            if ends_epoch:
                write_images(network, data, log / "pictures", step)
                write_pr_curves(
                    tf.nn.softmax(logits).numpy(), labels, data.class_names, step
                )
                tqdm.write(
                    f"{step // steps_of_epoch:5}             {loss:6.4f}    {accuracy:6.4f}"
                )
    return steps


# %% HParams
# Which learning rate, how many units? Each pair is tried in a short run of its own, and the panel
# compares them: in a table to sort, and as lines that go through all values of a run. Is the best
# learning rate the same for both sizes?


def sweep(data: Dataset, args, precision: str, log: Path) -> None:
    """Train a network for each pair of learning rate and units, and write how far it came."""
    rates = hp.HParam("learning_rate", hp.Discrete(SWEEP_RATES))
    units = hp.HParam("units", hp.Discrete(SWEEP_UNITS))
    with make_writer(log).as_default():
        hp.hparams_config(
            [rates, units], [hp.Metric("sweep/accuracy", display_name="accuracy")]
        )
    for rate, count in itertools.product(SWEEP_RATES, SWEEP_UNITS):
        network = make_network((count,), data, precision, args.seed)
        train_step, name = make_step(network), f"rate={rate},units={count}"
        with make_writer(log / name).as_default():
            hp.hparams({rates: rate, units: count}, trial_id=name)
            for step, batch in enumerate(batches(data, args).take(SWEEP_STEPS), 1):
                train_step(*batch, tf.constant(rate))
                if step % 10 == 0:
                    logits, _ = network(data.validation_images)
                    _, accuracy = loss_and_accuracy(logits, data.validation_labels)
                    tf.summary.scalar("sweep/accuracy", accuracy, step)


# %% Audio and Text
# A chirp is a tone that rises. Listen to it alone, then under noise of the same power: the ear
# still follows it, though the eye would hardly find it in the waveform. Text is for what no curve
# tells next month: how it was made, and what came of it. Markdown is rendered.


def write_audio(seed: int) -> None:
    """Write a chirp from 200 to 2,000 Hz, clean and with noise; samples are from -1 to 1."""
    t = np.arange(SOUND_RATE * SOUND_SECONDS) / SOUND_RATE
    chirp = np.sin(2 * np.pi * (200 * t + (2000 - 200) / (2 * SOUND_SECONDS) * t**2))
    noise = np.random.default_rng(seed).normal(0, chirp.std(), len(chirp))
    for name, sound in (("clean", chirp), ("with_noise", chirp + noise)):
        wave = (sound / np.abs(sound).max()).astype(np.float32)[
            None, :, None
        ]  # (1, samples, 1)
        tf.summary.audio(f"chirp/{name}", wave, SOUND_RATE, step=0)


def write_table(tag: str, rows: dict) -> None:
    """Write a Markdown table of names and values."""
    lines = [
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    tf.summary.text(tag, "\n".join(lines), step=0)


# %% Projector
# The last hidden layer turns each image into a point in 64 dimensions, such that straight borders
# between the classes will do. The panel projects the points to three dimensions: choose "Color by:
# label", look at PCA, then t-SNE. Which digits lie side by side? Which lie in the wrong crowd?


def write_projector(
    points: np.ndarray, images: np.ndarray, about: list[str], log: Path
) -> None:
    """Write points (N, D), a line about each, and a sprite: all images (N, H, W, 1) in one."""
    log.mkdir(exist_ok=True)
    np.savetxt(log / "points.tsv", points, "%.4f", "\t")
    (log / "about.tsv").write_text("\n".join(["label\tpredicted\tright", *about, ""]))
    count, height, width, _ = images.shape
    side = int(np.ceil(np.sqrt(count)))
    sprite = np.full((side * side, height, width), 255, np.uint8)
    sprite[:count] = 255 - images[..., 0]  # dark on light
    sprite = sprite.reshape(side, side, height, width).swapaxes(1, 2)
    sprite = sprite.reshape(side * height, side * width, 1)
    tf.io.write_file(str(log / "sprite.png"), tf.io.encode_png(sprite))
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="last hidden layer", tensor_path="points.tsv"
    )
    embedding.metadata_path = "about.tsv"
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend([width, height])
    projector.visualize_embeddings(str(log), config)


# %% TFRecord
# The format of event files, and of data sets too large for memory: record after record, each of
#
#     length                  8 bytes, little endian
#     checksum of the length  4 bytes, little endian
#     data                    as many bytes as `length` says
#     checksum of the data    4 bytes, little endian
#
# and no table of contents. So it can be added to for ever, and read while it is being written, but
# only from the start on. The checksum is CRC-32C, "masked" since the data may hold checksums
# itself: turned right by 15 bits, plus 0xa282ead8. The data can be anything. In event files it is
# an `Event`, in data sets mostly a `tf.train.Example`: a dictionary of lists of bytes, floats or
# whole numbers.


def write_records(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write uint8 images (N, H, W, C), packed as PNG, and labels (N,), an Example for each."""
    with tf.io.TFRecordWriter(str(path)) as file:
        for image, label in zip(images, labels, strict=True):
            example = tf.train.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(tf.io.encode_png(image).numpy())
            feature["label"].int64_list.value.append(label)
            file.write(example.SerializeToString())


def read_records(path: Path) -> tf.data.Dataset:
    """Read pairs of a uint8 image (H, W, C) and an int32 label from a file."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        return tf.io.decode_png(example["image"]), tf.cast(example["label"], tf.int32)

    return tf.data.TFRecordDataset(str(path)).map(parse)


# %% Profile
# What a step spends its time on. "Trace Viewer" draws thread by thread what ran when: a gap, in
# which all threads wait for data, is time to be won. Here it is most of the time, since the rows of
# `Iterator` unpack one PNG after the other. Only a few steps are recorded, and not the first one:
# each leaves thousands of entries, and in the first the graph is traced.


def write_profile(
    network: tf.keras.Model, records: Path, batch_size: int, log: Path
) -> None:
    """Profile steps on images from a TFRecord file, at rate 0: the network stays as it is."""
    train_step = make_step(network)
    pairs = read_records(records).repeat().batch(batch_size).prefetch(2)
    for number, batch in enumerate(pairs.take(1 + PROFILED_STEPS)):
        if number == 1:
            tf.profiler.experimental.start(str(log))
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            train_step(*batch, tf.constant(0.0))
    tf.profiler.experimental.stop()


# %% Run


def fill_panels(data: Dataset, args, precision: str, log: Path) -> dict:
    """Do all of the above, evaluate on the test images, and return the metrics."""
    network = make_network(UNITS, data, precision, args.seed)
    print(f"{network.count_params():,} parameters")
    settings = common.run_settings(args, tf.as_dtype(precision))
    images, labels, names = data.train_images, data.train_labels, data.class_names
    with make_writer(log / "input").as_default():
        write_table("configuration", settings | {"units": UNITS})
        path, captions = (
            log / "pictures" / "labelled.png",
            [names[label] for label in labels[:16]],
        )
        common.plot_images(images[:16], path, "Training images", captions)
        write_picture("labelled", path, step=0)
        write_audio(args.seed)
    started = time.perf_counter()
    steps = train(network, data, args, log)
    seconds = time.perf_counter() - started
    sweep(data, args, precision, log / "sweep")

    images, labels, records = (
        images[:RECORDS],
        labels[:RECORDS],
        log / "digits.tfrecord",
    )
    write_records(records, images, labels)
    for read, *written in zip(read_records(records), images, labels, strict=True):
        if not all(map(np.array_equal, read, written)):
            raise common.UserError(f"{records} does not hold what was written to it")
    write_profile(network, records, args.batch_size, log / "train")

    images, labels = data.test_images, data.test_labels
    logits, embeddings = network(images)
    probabilities = tf.nn.softmax(logits).numpy()
    predictions = probabilities.argmax(axis=1)
    right = predictions == labels
    about = [
        f"digit {names[label]}\tdigit {names[prediction]}\t{'yes' if label == prediction else 'no'}"
        for label, prediction in zip(labels[:PROJECTED], predictions, strict=False)
    ]
    write_projector(
        embeddings[:PROJECTED].numpy(), images[:PROJECTED], about, log / "test"
    )
    report = {"training": f"{seconds:.1f} s", "test accuracy": f"{right.mean():.2%}"}
    for index, name in enumerate(names):
        report[f"test accuracy on {name}"] = f"{right[labels == index].mean():.2%}"
    with make_writer(log / "test").as_default():
        write_pr_curves(probabilities, labels, names, steps)
        write_table("report", report)
    return settings | {
        "data": data.name,
        "test_accuracy": float(right.mean()),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(steps * args.batch_size / seconds),
        "parameters": network.count_params(),
        "log": common.shown(log),
    }


def serve(log: Path, port: int) -> str:
    """Start TensorBoard in a thread of this program, and return its address."""
    server = program.TensorBoard()
    server.configure(logdir=str(log), port=port, host="127.0.0.1")
    # Plugins remember what is stderr while they are loaded, and write each request to it.
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    try:
        with common.silent_stderr(), contextlib.redirect_stderr(nowhere):
            return server.launch()
    except program.TensorBoardServerException as error:
        log.rmdir()  # there is nothing in it yet
        raise common.UserError(f"{error}; choose another --port") from error


def main(argv: list[str] | None = None) -> dict:
    """Fill every panel, say how to open them, and return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument(
        "--serve", action="store_true", help="run TensorBoard until Ctrl-C"
    )
    parser.add_argument(
        "--port", type=common.positive_int, default=6006, help="of TensorBoard"
    )
    args = parser.parse_args(argv)
    precision = common.start(args.precision).name
    folder = args.models_dir / NAME

    data = mnist.load(args.data, args.data_dir)
    common.count_images(data, args)
    log = new_folder(folder / "logs")
    command = f"tensorboard --logdir {shlex.quote(common.shown(log))}"
    if args.serve:
        print("TensorBoard is at", serve(log, args.port), flush=True)
    try:
        metrics = fill_panels(data, args, precision, log)
    except KeyboardInterrupt:
        print(f"\ninterrupted; how far it came shows  {command}", file=sys.stderr)
        sys.exit(130)
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0].rpartition("}} ")[2]
        raise common.UserError(f"TensorFlow stopped: {reason}") from error
    metrics = common.finish(folder, metrics, [log], args, argv, __file__)
    print(f"open it with  {command}")
    if (
        importlib.util.find_spec("xprof") is None
    ):  # which the plugin brings; not on Linux, aarch64
        print("its panel Profile needs  pip install tensorboard-plugin-profile==2.24.2")
    if args.serve:
        print("TensorBoard goes on until Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return metrics


# %% What to try next
# * --learning-rate 2, then 20: in which panel do you see first that something is wrong?
# * `tensorboard --logdir models/example02_tensorboard/logs` shows all runs; compare two.
# * Leave the ReLUs out: what becomes of the crowds in the projector, and of the mistakes?
# * Give the `map` in read_records num_parallel_calls=tf.data.AUTOTUNE: what does the profile say?

if __name__ == "__main__":
    common.run(main)
