"""Example 04: a convolutional network for MNIST, made of tf.keras.layers.

You will learn how most networks are written: a list of layers; compile() for the loss
and the optimizer, fit() for the training, evaluate() for the test; callbacks for what
happens in between; and one file in which the trained model is kept.

    python examples/example04_mnist_cnn_layers.py                 # downloads 12 MB once
    python examples/example04_mnist_cnn_layers.py --data sample   # offline, on drawings
    python examples/example04_mnist_cnn_layers.py --image 7.png   # what digit is this?

The network is of LeNet's kind (Y. LeCun et al. 1998, https://doi.org/10.1109/5.726791);
images are turned, resized and moved as in P. Simard et al. 2003
(https://doi.org/10.1109/ICDAR.2003.1227801).
docs/results.md has the measured results. Before this one: example 03, networks without
convolutions. After it: example 05, the same network written with tf.nn, without layers.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from datasets import mnist
from examples.helpers.run import Run
from models.saved import reading
from models.training import accuracy, count_parameters, one_cycle

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 6, 128
LEARNING_RATE = 5e-3  # at the peak of the cycle
WARM_UP = 0.2  # share of the steps in which the learning rate rises
LABEL_SMOOTHING = 0.1
ANGLE = 0.2  # radians by which an image is turned at most, to either side
ZOOM = 0.15  # logarithm of the factor by which it is made larger or smaller at most
SHIFT = 2  # pixels by which it is moved at most, in each direction

# %% Data
# MNIST's images are 28 x 28 pixels, 0 for paper and 255 for ink; example 03 has more.
#
# A digit that leans, is a little larger, or sits two pixels further down is the same
# digit. The network does not know that until it is shown: in every epoch each image is
# turned, resized and moved anew, and what comes in at the border is paper. Pixel $(x,
# y)$ of the result is pixel $(ax - by + c,\; bx + ay + d)$ of the image, between its
# pixels the weighted mean of the next four; $c$ and $d$ keep the centre where it is,
# and move it.
#
# tf.data prepares a batch while the network works on the one before. What is drawn at
# random depends only on the seed and the number of the step, as in example 03.


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turn, resize and move uint8 images (N, 28, 28, 1); `seed` is two integers."""
    count, size = tf.shape(images)[0], images.shape[1]
    amounts = tf.random.stateless_uniform([4, count], seed, -1, 1)
    angle, zoom, dx, dy = tf.unstack(amounts * [[ANGLE], [ZOOM], [SHIFT], [SHIFT]])
    a, b = tf.exp(zoom) * tf.cos(angle), tf.exp(zoom) * tf.sin(angle)
    zero, centre = tf.zeros_like(angle), (size - 1) / 2
    c = centre - a * centre + b * centre + dx
    d = centre - b * centre - a * centre + dy
    transforms = tf.stack([a, -b, c, b, a, d, zero, zero], axis=1)
    return tf.keras.ops.image.affine_transform(images, transforms)


def batches(images, labels, size: int, seed: int, epochs: range) -> tf.data.Dataset:
    """Return the epochs' batches: images (size, 28, 28, 1), one-hot (size, 10)."""
    steps = len(images) // size  # images left over wait for the next epoch
    orders = [np.random.default_rng([seed, e]).permutation(len(images)) for e in epochs]
    places = np.array(orders)[:, : steps * size].reshape(-1, size)
    images, targets = tf.constant(images), tf.one_hot(labels, 10)

    def prepare(step, places):
        batch = augment(tf.gather(images, places), [seed, step])
        return batch, tf.gather(targets, places)

    data = tf.data.Dataset.from_tensor_slices(places)
    data = data.enumerate(epochs.start * steps).map(prepare).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and it takes seconds
    return data.with_options(options)


# %% Model
# The layers, what comes out of them, and how many weights are trained; example 05
# explains kernel size, stride and padding:
#
#   Conv2D 5 x 5, stride 2, "valid"    12 x 12 x  32         832
#   Conv2D 3 x 3, "valid"              10 x 10 x  64      18,496
#   MaxPooling2D 2 x 2                  5 x  5 x  64
#   Conv2D 3 x 3, "valid"               3 x  3 x 128      73,856
#   Conv2D 3 x 3, "same"                3 x  3 x 128     147,584
#   Flatten                                     1152
#   Dense                                         10      11,530


def make_model() -> tf.keras.Sequential:
    """Return the network: uint8 images (N, 28, 28, 1) in, logits (N, 10) out."""
    layers = tf.keras.layers
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
# compile() takes the loss, computed from logits, the optimizer, and what else to
# measure. With label smoothing the network is asked for 91 % certainty, not for 100 %,
# which no finite logits reach (C. Szegedy et al. 2016, section 7,
# https://arxiv.org/abs/1512.00567).


def compile_model(model: tf.keras.Sequential, learning_rate: float) -> None:
    """Give the model its loss, Adam, and the share of right answers as a metric."""
    cross_entropy = tf.keras.losses.CategoricalCrossentropy
    loss = cross_entropy(from_logits=True, label_smoothing=LABEL_SMOOTHING)
    model.compile(tf.keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)  # to be restored with the model


# %% Callbacks
# fit() is the training loop. What it should do besides, it is told in callbacks:
# objects with methods that are called before and after each batch and each epoch. Here
# is one of our own. Keras brings many along, such as TensorBoard, which writes curves
# for example 02's program. The third, `Run` of the other examples, shows a bar, prints
# a line for each epoch, and saves.


class OneCycle(tf.keras.callbacks.Callback):
    """Let the learning rate rise to its peak and fall to zero, as in example 03."""

    def __init__(self, peak: float, steps: int):
        super().__init__()
        self.peak, self.steps = peak, steps  # steps of all epochs

    def on_train_batch_begin(self, batch, logs=None):
        """Set the learning rate of this step."""
        done = int(self.model.optimizer.iterations) / self.steps
        self.model.optimizer.learning_rate = self.peak * one_cycle(done, WARM_UP)


# %% Evaluation
# Moved by a pixel up, down, left, right or aslant, an image shows the same digit, and
# the mean of nine predictions is more certain than each.


def nine_views(images: np.ndarray) -> np.ndarray:
    """Return (9, N, 28, 28, 1): the images (N, 28, 28, 1) moved; view 4 is not."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack([padded[:, y : y + 28, x : x + 28] for y, x in np.ndindex(3, 3)])


def evaluate(model: tf.keras.Model, data: mnist.Dataset) -> tuple[float, np.ndarray]:
    """Return the test accuracy of one view, and the mean logits of nine, (N, 10)."""
    one_hot = tf.one_hot(data.test_labels, 10)
    _, share = model.evaluate(data.test_images, one_hot, batch_size=1000, verbose=0)
    views = nine_views(data.test_images).reshape(-1, 28, 28, 1)  # (90000, 28, 28, 1)
    logits = model.predict(views, batch_size=1000, verbose=0).reshape(9, -1, 10)
    return share, logits.mean(axis=0)


# %% The model in a file
# The file holds layers, weights and optimizer: who loads it needs nothing of this
# script. That is worth a test, since much of a model can get lost on the way to disk
# and back: the model is loaded again at once, and must give the same logits. The same
# file answers for a picture of your own.


def save(model: tf.keras.Model, path: Path, images: np.ndarray) -> Path:
    """Write a model, load it again, and say how far the two differ on some images."""
    with cli.replacing(path) as part:
        model.save(part)
    logits, again = (x.predict(images, verbose=0) for x in (model, load(path)))
    difference = np.abs(logits - again).max()
    print(f"loaded again: largest difference between the logits {difference:g}")
    return path


def load(path: Path) -> tf.keras.Model:
    """Return the model that the last run has written."""
    with reading(path, __file__):  # makes one error of the dozen kinds
        return tf.keras.models.load_model(path)


def classify(picture: Path, folder: Path) -> dict:
    """Say which digit a picture shows, by what the last run has learned."""
    image = mnist.read_picture(picture)  # (28, 28, 1)
    logits = load(folder / "model.keras").predict(image[None], verbose=0)
    return report.show_answer(
        image, tf.nn.softmax(logits[0]).numpy(), "0123456789", folder
    )


# %% Run
# The same command goes on where the last whole epoch was saved; example 06 explains it.
# fit() is told the numbers of the first and the last epoch, and the data set those of
# the epochs that are left, so that seeds and curves go on where they were, too.


def train(model, run: Run, data: mnist.Dataset, count: int, logs: Path, args) -> None:
    """Train from the epoch where the run was left to the last one."""
    images, labels = data.train_images[:count], data.train_labels[:count]
    targets = tf.one_hot(data.validation_labels, 10)
    epochs = range(len(run.history), args.epochs)
    if not epochs:
        return
    if args.restart:
        shutil.rmtree(logs, ignore_errors=True)
    model.fit(
        batches(images, labels, args.batch_size, args.seed, epochs),
        shuffle=False,  # it is shuffled
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        steps_per_epoch=run.steps_per_epoch,
        validation_data=(data.validation_images, targets),
        validation_batch_size=1000,
        verbose=0,
        callbacks=[
            OneCycle(args.learning_rate, args.epochs * run.steps_per_epoch),
            tf.keras.callbacks.TensorBoard(str(logs)),
            run.callback(),
        ],
    )


# %% Main program
# The parts come together: data, model, loss, training, test. Two settings are Keras'
# own and hold for all that is made after them: the seed, from which the first weights
# are drawn, and the dtype policy, which says in what precision layers compute. A layer
# asks for both when it is made, so they come first.


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, save, draw, and return the metrics; or classify a picture."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument("--image", type=Path, help="picture of a digit to classify")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    if args.image:
        return classify(args.image, folder)

    data = mnist.load(args.data, args.data_dir)
    count = len(data.train_images[: args.train_images])
    print(data.summary(count))
    tf.keras.utils.set_random_seed(args.seed)
    # In "mixed" precision layers compute in bfloat16, while weights stay in float32.
    mixed = "float32" if dtype == tf.float32 else f"mixed_{dtype.name}"
    tf.keras.config.set_dtype_policy(mixed)
    model = make_model()
    compile_model(model, args.learning_rate)
    print(f"{count_parameters(model):,} parameters")
    settings, steps = cli.settings(args, dtype), count // args.batch_size
    run = Run(folder, settings, __file__, args.epochs, steps, args.restart, model=model)
    train(model, run, data, count, folder / "logs" / run.folder.name, args)

    one_view, logits = evaluate(model, data)
    probabilities = tf.nn.softmax(logits).numpy()
    metrics = settings | run.metrics(args.batch_size)
    metrics |= {
        "data": data.name,
        "test_accuracy": float(accuracy(logits, data.test_labels)),
        "test_accuracy_from_one_view": one_view,
        "parameters": count_parameters(model),
    }
    answers = data.test_images, data.test_labels, probabilities, data.class_names
    files = report.plot_results(folder, "Example 04", metrics["history"], *answers)
    model_file = save(model, folder / "model.keras", data.test_images[:1000])
    files += [model_file, run.folder, folder / "logs"]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `tensorboard --logdir models/example04_mnist_cnn_layers/logs`: the curves of all
#   runs.
# * `--image` with a photograph of a digit that you have written: what does the network
#   take it for, and what has become of it in picture.png?
# * `ANGLE`, `ZOOM` or `SHIFT = 0`: which of them helps the most?
# * Augment with layers: `RandomRotation`, `RandomZoom`, `RandomTranslation`. How much
#   slower is it?
# * `layers.BatchNormalization()` behind each convolution, as in example 06, or
#   `layers.Dropout(0.3)` in front of the last layer: is it better after ten epochs?

if __name__ == "__main__":
    cli.run(main)
