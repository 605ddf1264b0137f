"""Example 02: what TensorBoard shows of a training run, panel by panel.

You will learn to look inside a training run. A small network learns to read digits, and
everything is written down that TensorBoard has a panel for, from the loss to the
profile of a step. The file format behind it, TFRecord, is taken apart at the end.

    python examples/example02_tensorboard.py                # MNIST, 12 MB, once
    python examples/example02_tensorboard.py --data sample  # offline, on small digits
    python examples/example02_tensorboard.py --serve        # shown while it trains

docs/results.md has the measured results. Before this one: example 01, adding two
numbers. After it: example 03, which explains what is only looked at here.
"""

import itertools
import shlex
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import scipy.signal
import tensorflow as tf
from tensorboard import program
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hp
from tensorboard.plugins.pr_curve import summary as pr_curve

from datasets import mnist
from models import mnist_mlp
from models.training import accuracy, count_parameters, mean_loss

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 4, 100
LEARNING_RATE = 0.3  # in the first step; it falls to zero along a straight line
UNITS = (128, 64)  # of the two hidden layers
SWEEP_RATES, SWEEP_UNITS, SWEEP_STEPS = (0.01, 0.1, 0.5), (8, 128), 100
SOUND_RATE, SOUND_SECONDS = 16_000, 2  # samples a second, length

# %% Runs and writers
# TensorBoard shows what lies below one folder, its --logdir. Each folder in it with an
# event file is a "run". What two runs write under the same "tag" is drawn into one
# chart: `train` and `validation`, which both write `epoch_loss`, make two curves.
# Events are only ever added: train twice into one folder, and the curves zigzag. So
# every start of this script makes a new folder.


def make_writer(folder: Path) -> tf.summary.SummaryWriter:
    """Make the writer of a run; it is used within `with writer.as_default(step):`."""
    return tf.summary.create_file_writer(str(folder), flush_millis=2000)  # seen soon


# %% Graphs
# The network as TensorFlow sees it. What is computed within one `tf.name_scope` (Keras
# makes one for each layer) is a box, which a double click opens; without them a graph
# is a heap of MatMuls. Follow the images through the layers to the loss, and the
# gradients back. "Color by: Device" shows what `tf.device` asked for.


@tf.function
def gradients_of(network: tf.keras.Model, images, labels) -> list:
    """Return the gradients of all weights."""
    with tf.device("GPU" if tf.config.list_physical_devices("GPU") else "CPU"):
        with tf.GradientTape() as tape:
            logits = network(images)
            with tf.name_scope("loss"):
                loss = mean_loss(logits, labels)
        return tape.gradient(loss, network.trainable_variables)


# %% Scalars, Distributions and Histograms
# Scalars is the panel to look at first. Loss that falls in training and rises in
# validation is overfitting; flat curves are a learning rate too low, jumping ones one
# too high. Distributions and Histograms both show how the numbers in a tensor are
# spread, moment after moment. Weights that stay where they are do not learn; gradients
# that shrink towards the first layer vanish. Keras writes all but the gradients.


def write_gradients(network: tf.keras.Model, gradients: list) -> None:
    """Write the spread of the gradient of each weight."""
    for weight, gradient in zip(network.trainable_weights, gradients, strict=True):
        tf.summary.histogram(f"{weight.path}/gradient", gradient)


# %% Images
# Look at what goes in before anything else, and at what is mistaken for what.


def write_pictures(*paths: Path) -> None:
    """Write PNG files; tf.summary.image has no captions, so they are drawn."""
    for path in paths:
        tf.summary.image(path.stem, tf.io.decode_png(path.read_bytes())[None])


# %% PR Curves
# Of the images taken for a 7 with more than some probability, how many are one
# (precision)? And how many of all 7s are among them (recall)? The curve goes through
# all such probabilities; the nearer to the upper right corner, the better.


def write_pr_curves(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Write a curve for each class, from probabilities, float32 (N, classes)."""
    for digit, column in enumerate(probabilities.T):
        curve = pr_curve.pb(f"digit/{digit}", labels == digit, column)
        tf.summary.experimental.write_raw_pb(curve.SerializeToString())


# %% Profile
# What a step spends its time on. "Trace Viewer" draws thread by thread what ran when: a
# gap, in which all threads wait for data, is time to be won. Keras' callback records
# steps 5 to 9, besides curves and weights. (It silences other writers for all steps but
# every `update_freq`-th.) Our own callback fills the panels above.


def train(network: tf.keras.Model, pairs, epochs: int, data, log: Path) -> None:
    """Train on `pairs`, batches of images and labels, and write what it comes to."""
    images, labels = data.validation_images, data.validation_labels
    writer = make_writer(log / "examined")
    with writer.as_default(step=0):
        graph = gradients_of.get_concrete_function(network, images, labels).graph
        tf.summary.graph(graph)

    def examine(epoch: int, logs: dict) -> None:
        print(f"epoch {epoch + 1:2}:", *(f"{n} {x:.4f}" for n, x in logs.items()))
        if not np.isfinite(logs["loss"]):
            raise cli.UserError("the loss is not finite: use a smaller --learning-rate")
        answers = labels, tf.nn.softmax(network(images)).numpy(), data.class_names
        folder, title = log / "pictures", f"Epoch {epoch + 1}"
        pictures = report.plot_results(folder, title, {}, images, *answers)
        with writer.as_default(step=epoch):
            write_gradients(network, gradients_of(network, images, labels))
            write_pictures(*pictures)
            write_pr_curves(*answers[:2])

    board = tf.keras.callbacks.TensorBoard(
        log, histogram_freq=1, write_graph=False, update_freq=1, profile_batch=(5, 9)
    )
    calls = [tf.keras.callbacks.LambdaCallback(on_epoch_end=examine), board]
    quiet = {"verbose": 0, "shuffle": False, "validation_data": (images, labels)}
    network.fit(pairs, epochs=epochs, callbacks=calls, **quiet)


# %% HParams
# Which learning rate, how many units? Each pair is tried in a short run of its own, and
# the panel compares them. Is the best learning rate the same for both sizes?


def sweep(pairs, data: mnist.Dataset, dtype: tf.DType, seed: int, log: Path) -> None:
    """Train a network for each learning rate and size, and write how far it came."""
    rates = hp.HParam("learning_rate", hp.Discrete(SWEEP_RATES))
    units = hp.HParam("units", hp.Discrete(SWEEP_UNITS))
    with make_writer(log).as_default():
        hp.hparams_config([rates, units], [hp.Metric("sweep/accuracy")])
    for rate, count in itertools.product(SWEEP_RATES, SWEEP_UNITS):
        network = mnist_mlp.make_network((count,), rate, dtype, seed)
        network.fit(pairs.repeat().take(SWEEP_STEPS), verbose=0, shuffle=False)
        share = accuracy(network(data.validation_images), data.validation_labels)
        name = f"rate={rate},units={count}"
        with make_writer(log / name).as_default(step=SWEEP_STEPS):
            hp.hparams({rates: rate, units: count}, trial_id=name)
            tf.summary.scalar("sweep/accuracy", share)


# %% Audio and Text
# A chirp is a tone that rises. Listen to it alone, then under noise of the same power:
# the ear still follows it, though the eye would hardly find it in the waveform. Text is
# for what no curve tells next month: how it was made, and what came of it.


def write_audio(seed: int) -> None:
    """Write a chirp from 200 to 2,000 Hz, clean and with noise."""
    t = np.arange(SOUND_RATE * SOUND_SECONDS) / SOUND_RATE
    chirp = scipy.signal.chirp(t, 200, SOUND_SECONDS, 2000)
    noise = np.random.default_rng(seed).normal(0, chirp.std(), len(chirp))
    for name, sound in (("clean", chirp), ("with_noise", chirp + noise)):
        sound = tf.constant(sound / np.abs(sound).max(), tf.float32)  # from -1 to 1
        tf.summary.audio(f"chirp/{name}", sound[None, :, None], SOUND_RATE)


# %% Projector
# The last hidden layer turns each image into a point in 64 dimensions, such that
# straight borders between the classes will do. The panel projects them to three: look
# at PCA, then t-SNE. Which digits lie side by side, which in the wrong crowd?


def write_projector(network: tf.keras.Model, images, labels, log: Path) -> None:
    """Write the points of images (N, 28, 28, 1), their labels, and a sprite."""
    side = min(32, int(len(images) ** 0.5))  # rows and columns of the sprite
    images, labels = images[: side**2], labels[: side**2]
    hidden = tf.keras.Model(network.inputs[0], network.layers[-2].output)
    np.savetxt(log / "points.tsv", hidden(images), "%.4f", "\t")
    np.savetxt(log / "labels.tsv", labels, "digit %d")
    sprite = 255 - images.reshape(side, side, 28, 28).swapaxes(1, 2)  # all in one
    sprite = tf.io.encode_png(sprite.reshape(28 * side, 28 * side, 1))
    tf.io.write_file(str(log / "sprite.png"), sprite)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(tensor_name="last hidden layer")
    embedding.tensor_path, embedding.metadata_path = "points.tsv", "labels.tsv"
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend([28, 28])
    projector.visualize_embeddings(str(log), config)


# %% TFRecord
# The format of event files, and of data sets too large for memory (example 10): record
# after record, each a length (8 bytes), a checksum of the length (4), as many bytes of
# data, and a checksum of the data (4); all little endian, and no table of contents. So
# it can be added to for ever, and read while it is being written, but only from the
# start on. The data can be anything: here it is an `Event`, in data sets mostly a
# `tf.train.Example`.


# %% Run
# One call fills all panels. What goes in, the training, the sweep and the test are
# written to different folders, so TensorBoard lists them as different runs. The test
# images are used once, when all else is done.


def fill_panels(data: mnist.Dataset, pairs, args, dtype: tf.DType, log: Path) -> dict:
    """Do all of the above, evaluate on the test images, and return the metrics."""
    settings = cli.settings(args, dtype, but=["serve", "port"])
    with make_writer(log / "input").as_default(step=0):
        captions = [data.class_names[label] for label in data.train_labels[:16]]
        path, images = log / "pictures" / "labelled.png", data.train_images[:16]
        write_pictures(report.plot_images(images, path, "Training images", captions))
        write_audio(args.seed)
        tf.summary.text("configuration", [[k, str(v)] for k, v in settings.items()])
    steps, began = args.epochs * len(pairs), time.perf_counter()
    rate = tf.keras.optimizers.schedules.PolynomialDecay(args.learning_rate, steps, 0.0)
    network = mnist_mlp.make_network(UNITS, rate, dtype, args.seed)
    train(network, pairs, args.epochs, data, log)
    seconds = time.perf_counter() - began
    sweep(pairs, data, dtype, args.seed, log / "sweep")
    logits = network(data.test_images)
    metrics = settings | {
        "data": data.name,
        "test_accuracy": float(accuracy(logits, data.test_labels)),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(steps * args.batch_size / seconds),
        "parameters": count_parameters(network),
    }
    with make_writer(log / "test").as_default(step=steps):
        write_pr_curves(data.test_labels, tf.nn.softmax(logits).numpy())
        tf.summary.text("report", [[k, str(v)] for k, v in metrics.items()])
    write_projector(network, data.test_images, data.test_labels, log / "test")
    return metrics


# %% Main program
# TensorBoard is a program of its own that reads what lies on disk: it may be started
# before the training, meanwhile, or years later. With `--serve` this program starts it
# first, so that the curves are seen to grow, and keeps it until Ctrl-C.


def main(argv: list[str] | None = None) -> dict:
    """Fill every panel, say how to open them, and return the metrics."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument("--serve", action="store_true", help="run TensorBoard, too")
    parser.add_argument("--port", type=int, default=6006, help="for --serve")
    args = parser.parse_args(argv)
    dtype = device.start(args.precision)
    data = mnist.load(args.data, args.data_dir)
    pairs = tf.data.Dataset.from_tensor_slices((data.train_images, data.train_labels))
    pairs = pairs.take(args.train_images or -1)  # -1: all
    print(data.summary(len(pairs)))
    pairs = pairs.shuffle(len(pairs), args.seed).batch(args.batch_size, True)
    if not len(pairs):
        raise cli.UserError("the images do not fill a batch: lower --batch-size")
    folder = args.models_dir / NAME
    log = folder / "logs" / time.strftime("%Y-%m-%d_%H-%M-%S")
    print(f"open it with  tensorboard --logdir {shlex.quote(cli.shown(log))}")
    if args.serve:
        server = program.TensorBoard()
        server.configure(logdir=str(log), port=args.port, load_fast="false")
        try:
            print("TensorBoard is at", server.launch(), flush=True)
        except program.TensorBoardServerException as error:
            raise cli.UserError(f"{error}; choose another --port") from error
    with cli.writing(log):
        metrics = fill_panels(data, pairs, args, dtype, log)
    metrics = report.finish(folder, metrics, [log], argv, args.min_accuracy)
    if args.serve:
        print("TensorBoard goes on until Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return metrics


# %% What to try next
# * `--learning-rate 2`, then 20: in which panel do you see first what is wrong?
# * `tensorboard --logdir models/example02_tensorboard/logs` shows all runs: compare.
# * `UNITS = (128, 2)`: what becomes of the crowds in the projector, and of the
#   mistakes?

if __name__ == "__main__":
    cli.run(main)
