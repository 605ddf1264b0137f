"""Example 04: a convolutional network for MNIST, made of tf.keras.layers.

You will learn how most networks are written: a list of layers; compile() for the loss and the
optimizer, fit() for the training, evaluate() for the test; callbacks for what happens in between;
and one file in which the trained model is kept and from which it is loaded again.

    python examples/example04_mnist_cnn_layers.py                  # MNIST; downloads 12 MB once
    python examples/example04_mnist_cnn_layers.py --data sample    # offline, on small sample data
    python examples/example04_mnist_cnn_layers.py --epochs 1 --train-images 40000    # much sooner
    python examples/example04_mnist_cnn_layers.py --image seven.png    # what digit is this?

The README has the measured results, each with its machine, versions, seeds and time.

Before this one: example 03, networks without convolutions. After it: example 05, the same network
written with tf.nn, without any layer.
"""

import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from datasets import mnist

NAME = Path(__file__).stem
EPOCHS = 6
BATCH_SIZE = 128
LEARNING_RATE = 5e-3  # at the peak of the cycle
WARM_UP = (
    0.2  # share of the steps in which the learning rate rises; then it falls to zero
)
LABEL_SMOOTHING = 0.1
ANGLE = 0.2  # radians by which an image is turned at most, to either side
ZOOM = 0.15  # logarithm of the factor by which it is made larger or smaller at most
SHIFT = 2  # pixels by which it is moved at most, in each direction

# %% Data
# MNIST: 60,000 handwritten digits to train on, of which the last 5,000 are held back to make
# choices by, and 10,000 for the test; 28 x 28 pixels, 0 for paper and 255 for ink.
#
# A digit that leans, is a little larger, or sits two pixels further down is the same digit. The
# network does not know that until it is shown: in every epoch each image is turned, resized and
# moved anew, and what comes in at the border is paper.
#
# tf.data draws the images' places in a new order in each epoch, and prepares a batch while the
# network works on the one before. It can tune itself as it runs; here this would cost more than it
# gains (in TensorFlow 2.21 an epoch that is over may wait five seconds for the tuning to end).


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turn, resize and move uint8 images (N, 28, 28, 1) at random; `seed` is an integer (2,)."""
    count, size = tf.shape(images)[0], images.shape[1]
    amounts = tf.random.stateless_uniform([4, count], seed, -1, 1)
    angle, zoom, dx, dy = tf.unstack(amounts * [[ANGLE], [ZOOM], [SHIFT], [SHIFT]])
    a, b = tf.exp(zoom) * tf.cos(angle), tf.exp(zoom) * tf.sin(angle)
    zero, centre = tf.zeros_like(angle), (size - 1) / 2
    # Pixel (x, y) of the result is pixel (a x - b y + c, b x + a y + d) of the image, between its
    # pixels the weighted mean of the next four. c and d keep the centre where it is, and move it.
    c = centre - a * centre + b * centre + dx
    d = centre - b * centre - a * centre + dy
    transforms = tf.stack([a, -b, c, b, a, d, zero, zero], axis=1)
    return tf.keras.ops.image.affine_transform(images, transforms)


def batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Return an epoch of batches: augmented images (N, 28, 28, 1) and one-hot labels (N, 10)."""
    images, targets = tf.constant(images), tf.one_hot(labels, 10)
    places = tf.data.Dataset.range(len(images)).shuffle(len(images), seed)
    places = places.batch(batch_size, drop_remainder=True)
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)

    def prepare(places, seed):
        return augment(tf.gather(images, places), seed), tf.gather(targets, places)

    data = tf.data.Dataset.zip(places, seeds).map(prepare).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune
    return data.with_options(options)


# %% Model
# The layers, what comes out of them, and how many weights are trained, with kernel size, stride and
# padding as example 05 explains them:
#
#   Conv2D 5 x 5, stride 2, "valid"    12 x 12 x  32         832
#   Conv2D 3 x 3, "valid"              10 x 10 x  64      18,496
#   MaxPooling2D 2 x 2                  5 x  5 x  64
#   Conv2D 3 x 3, "valid"               3 x  3 x 128      73,856
#   Conv2D 3 x 3, "same"                3 x  3 x 128     147,584
#   Flatten                                     1152
#   Dense                                         10      11,530


def make_model() -> tf.keras.Sequential:
    """Return the network: uint8 images (N, 28, 28, 1) in, float32 logits (N, 10) out."""
    layers = tf.keras.layers
    # Weights that make outputs vary as much as inputs do behind a ReLU (K. He et al. 2015).
    options = {"activation": "relu", "kernel_initializer": "he_normal"}
    return tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),  # to numbers from 0 to 1
            layers.Conv2D(32, 5, strides=2, padding="valid", **options),
            layers.Conv2D(64, 3, padding="valid", **options),
            layers.MaxPooling2D(2),
            layers.Conv2D(128, 3, padding="valid", **options),
            layers.Conv2D(128, 3, padding="same", **options),
            layers.Flatten(),
            layers.Dense(10, dtype="float32"),
        ]
    )


# %% Loss and metric
# compile() takes the loss, computed from logits, the optimizer, and what else to measure. With
# label smoothing the network is asked for 91 % certainty, not for 100 %, which no finite logits
# reach (C. Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567).


def compile_model(model: tf.keras.Sequential, learning_rate: float) -> None:
    """Give the model its loss, Adam, and the share of right answers as a metric."""
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate),
        loss=tf.keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=LABEL_SMOOTHING
        ),
        metrics=["accuracy"],
    )


# %% Callbacks
# fit() is the training loop. What it should do besides, it is told in callbacks: objects with
# methods that are called before and after each batch and each epoch. Keras brings many along, such
# as TensorBoard, which writes curves for example 02's program. These two are our own.


class OneCycle(tf.keras.callbacks.Callback):
    """Let the learning rate rise to its peak and fall to zero, a little in every step."""

    def __init__(self, peak: float, steps: int, epochs: int):
        super().__init__()
        self.peak, self.steps, self.epochs, self.epoch = peak, steps, epochs, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remember the epoch, from 0."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Set the learning rate of this step."""
        done = (self.epoch * self.steps + batch + 1) / (self.epochs * self.steps + 1)
        share = min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        self.model.optimizer.learning_rate = self.peak * share


class Report(tf.keras.callbacks.Callback):
    """Show a bar while an epoch lasts; print a line and save everything when it is over.

    Keras' own BackupAndRestore writes over its last file in place, and a kill at that moment may
    leave one that it cannot read. TensorFlow's checkpoints are whole as soon as they are there.
    """

    def __init__(
        self, model: tf.keras.Sequential, epochs: int, folder: Path, restart: bool
    ):
        super().__init__()
        self.epoch = tf.Variable(0)  # how many are done
        self.history = tf.Variable(tf.zeros([epochs, len(common.HISTORY)], tf.float64))
        model.optimizer.build(
            model.trainable_variables
        )  # so that there is something to restore
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            epoch=self.epoch,
            history=self.history,
        )
        self.manager = common.open_checkpoints(checkpoint, folder, restart)

    def on_epoch_begin(self, epoch, logs=None):
        """Begin a bar."""
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=self.params["steps"], desc=f"epoch {epoch + 1}", leave=False
        )

    def on_train_batch_end(self, batch, logs=None):
        """Move the bar on, and note the time: the last batch is followed by the validation."""
        self.bar.update()
        self.seconds = time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        """Print how the epoch went, and save."""
        self.bar.close()
        row = [logs[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")]
        row.append(self.seconds)
        common.report_epoch(epoch + 1, row)
        self.history[epoch].assign(row)
        self.epoch.assign(epoch + 1)
        common.save(self.manager)


# %% Evaluation


def nine_views(images: np.ndarray) -> np.ndarray:
    """Return images (N, 28, 28, 1) as (9, N, 28, 28, 1): each moved by a pixel, or not at all.

    Up, down, left, right or aslant, it stays the same digit, and the mean of the nine predictions
    is more certain than each. View 4 is the image as it is.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack([padded[:, y : y + 28, x : x + 28] for y, x in np.ndindex(3, 3)])


# %% Run
# The same command goes on where the last whole epoch was saved, and trains nothing more when all
# epochs are done.


def train(
    model: tf.keras.Sequential, data: mnist.Dataset, args, run_folder: Path
) -> dict:
    """Train, or go on training, and return the history: lists of one number for each epoch."""
    images, labels = (
        data.train_images[: args.train_images],
        data.train_labels[: args.train_images],
    )
    steps = (
        len(images) // args.batch_size
    )  # in an epoch; images left over are drawn in another one
    report = Report(model, args.epochs, run_folder / "checkpoints", args.restart)
    done = int(report.epoch)
    if done:
        print(f"going on after epoch {done}, from {common.shown(run_folder)}")
    print(common.EPOCH_HEADING)
    model.fit(
        batches(images, labels, args.batch_size, args.seed + done),
        initial_epoch=done,
        epochs=args.epochs,
        validation_data=(
            data.validation_images,
            tf.one_hot(data.validation_labels, 10),
        ),
        validation_batch_size=1000,
        verbose=0,
        callbacks=[
            OneCycle(args.learning_rate, steps, args.epochs),
            report,
            tf.keras.callbacks.TensorBoard(str(run_folder / "logs")),
        ],
    )
    return common.as_history(report.history)


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, save, draw, and return the metrics; or classify a picture."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument(
        "--image", type=Path, metavar="PATH", help="picture of a digit to classify"
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew, without checkpoints"
    )
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)
    folder = args.models_dir / NAME
    model_file = folder / "model.keras"
    if args.image:
        image = mnist.read_picture(args.image)
        again = f"run  python examples/{NAME}.py  first"
        if not model_file.is_file():
            raise common.UserError(
                f"no trained model in {common.shown(folder)}: {again}"
            )
        try:
            model = tf.keras.models.load_model(model_file)
        except Exception as error:  # zipfile, json, h5py and Keras each raise their own
            raise common.UserError(
                f"{common.shown(model_file)} is damaged: {again}"
            ) from error
        probabilities = tf.nn.softmax(model.predict(image[None], verbose=0)[0]).numpy()
        return common.show_digit(image, probabilities, folder)

    data = mnist.load(args.data, args.data_dir)
    count = common.count_images(data, args)
    tf.keras.utils.set_random_seed(args.seed)
    # In "mixed" precision the layers compute in bfloat16, while the weights stay in float32.
    tf.keras.config.set_dtype_policy(
        "float32" if dtype == tf.float32 else f"mixed_{dtype.name}"
    )
    model = make_model()
    compile_model(model, args.learning_rate)
    parameters = sum(int(tf.size(variable)) for variable in model.trainable_variables)
    print(f"{parameters:,} parameters")

    settings = common.run_settings(args, dtype)
    run_folder = folder / "runs" / common.fingerprint(settings, __file__)
    if args.restart:
        shutil.rmtree(run_folder / "logs", ignore_errors=True)
    history = train(model, data, args, run_folder)
    seconds = sum(history["seconds"])

    one_hot = tf.one_hot(data.test_labels, 10)
    _, one_view_accuracy = model.evaluate(
        data.test_images, one_hot, batch_size=1000, verbose=0
    )
    views = nine_views(data.test_images).reshape(-1, 28, 28, 1)  # (90000, 28, 28, 1)
    views = model.predict(views, batch_size=1000, verbose=0).reshape(9, -1, 10)
    logits = views.mean(axis=0)  # (10000, 10)
    part = model_file.with_suffix(".part.keras")
    model.save(part)
    os.replace(part, model_file)

    # The file holds layers, weights and optimizer: who loads it needs nothing of this script.
    loaded = tf.keras.models.load_model(model_file)
    again = loaded.predict(data.test_images[:1000], batch_size=1000, verbose=0)
    difference = np.abs(views[4, :1000] - again).max()
    print(f"loaded again: largest difference between the logits {difference:g}")

    metrics = settings | {
        "data": data.name,
        "test_accuracy": float(np.mean(logits.argmax(axis=1) == data.test_labels)),
        "test_accuracy_from_one_view": one_view_accuracy,
        "train_seconds": round(seconds, 1),
        "images_per_second": round(
            count // args.batch_size * args.batch_size * args.epochs / seconds
        ),
        "parameters": parameters,
        "history": history,
    }
    probabilities, title = tf.nn.softmax(logits).numpy(), f"Example 04, {data.name}"
    pictures = common.plot_results(
        folder,
        history,
        data.test_images,
        data.test_labels,
        probabilities,
        data.class_names,
        title,
    )
    files = [*pictures, model_file, run_folder / "logs"]
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * tensorboard --logdir models/example04_mnist_cnn_layers/runs shows the curves of all runs.
# * --image with a photograph of a digit that you have written: what does the network take it for,
#   and what has become of it in picture.png?
# * ANGLE, ZOOM or SHIFT = 0: which of them helps the most?
# * Augment with layers: tf.keras.layers.RandomRotation, RandomZoom and RandomTranslation. Three
#   transformations in place of one: how much slower is it?
# * layers.BatchNormalization() behind each convolution, as in example 06, or layers.Dropout(0.3) in
#   front of the last layer: is it better after one epoch, and after ten?

if __name__ == "__main__":
    common.run(main)
