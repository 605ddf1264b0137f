"""Example 05: a convolutional network for MNIST, written with tf.nn.

You will learn what the layers of example 04 do: every weight is a variable that you make, every
operation a function that you call, and the update of the weights is four lines of arithmetic. It is
the same network; given the same weights, it computes the same logits.

    python examples/example05_mnist_cnn_nn.py                  # MNIST; downloads 12 MB once
    python examples/example05_mnist_cnn_nn.py --data sample    # offline, on small sample data
    python examples/example05_mnist_cnn_nn.py --epochs 1 --train-images 40000    # much sooner
    python examples/example05_mnist_cnn_nn.py --image seven.png    # what digit is this?

The README has the measured results, each with its machine, versions, seeds and time.

Before this one: example 04, the same network with tf.keras.layers. After it: example 06, a network
for photographs in colour.
"""

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
MEAN_DECAY, SQUARE_DECAY = (
    0.9,
    0.999,
)  # of Adam's moving averages, called beta 1 and beta 2
TINY = 1e-7  # keeps Adam from dividing by zero
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


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turn, resize and move uint8 images (N, 28, 28, 1) at random; `seed` is int32 (2,)."""
    count, size = tf.shape(images)[0], images.shape[1]
    amounts = tf.random.stateless_uniform([4, count], seed, -1, 1)
    angle, zoom, dx, dy = tf.unstack(amounts * [[ANGLE], [ZOOM], [SHIFT], [SHIFT]])
    a, b = tf.exp(zoom) * tf.cos(angle), tf.exp(zoom) * tf.sin(angle)
    zero, centre = tf.zeros_like(angle), (size - 1) / 2
    # Pixel (x, y) of the result is pixel (a x - b y + c, b x + a y + d) of the image, between its
    # pixels the weighted mean of the next four. c and d keep the centre where it is, and move it.
    c = centre - a * centre + b * centre + dx
    d = centre - b * centre - a * centre + dy
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, -b, c, b, a, d, zero, zero], axis=1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


# %% Model
# A convolution lays a small kernel on the image, multiplies each weight with the pixel below it,
# adds up, and moves on. How far it moves is the stride; whether it may reach over the border, the
# padding:
#
#   "SAME"    zeros are put around the image so that it may; output size = ceil(n / stride)
#   "VALID"   it may not; output size = ceil((n - kernel + 1) / stride)
#
# Each kernel looks for one thing everywhere and makes one channel of the output. What comes out of
# the layers below, and how many weights they have:
#
#   operation     kernel    stride   padding      output      weights, without biases
#   convolution   5 x 5       2      "VALID"   12 x 12 x  32    5 * 5 *   1 *  32 =     800
#   convolution   3 x 3       1      "VALID"   10 x 10 x  64    3 * 3 *  32 *  64 =  18,432
#   max pooling   2 x 2       2      "VALID"    5 x  5 x  64    none
#   convolution   3 x 3       1      "VALID"    3 x  3 x 128    3 * 3 *  64 * 128 =  73,728
#   convolution   3 x 3       1      "SAME"     3 x  3 x 128    3 * 3 * 128 * 128 = 147,456
#   dense                                             10        3 * 3 * 128 * 10 + 10 = 11,530
#
# A dense layer in place of the first convolution would need 784 * 12 * 12 * 32 = 3,612,672 weights
# to make as many outputs, and would have to learn each stroke anew at every place.


class Network(tf.Module):
    """The variables, all float32, and the way from images to logits, computed in `dtype`."""

    def __init__(self, dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype

        def weights(*shape):
            """Draw weights so that outputs vary as much as inputs do (K. He et al. 2015)."""
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            return tf.Variable(rng.normal(0, deviation, shape), dtype=tf.float32)

        self.kernels = [
            weights(5, 5, 1, 32),
            weights(3, 3, 32, 64),
            weights(3, 3, 64, 128),
            weights(3, 3, 128, 128),
        ]
        self.biases = [
            tf.Variable(tf.zeros(kernel.shape[-1])) for kernel in self.kernels
        ]
        self.dense, self.dense_biases = (
            weights(3 * 3 * 128, 10),
            tf.Variable(tf.zeros(10)),
        )

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""
        x = tf.cast(images, self.dtype) / 255  # from 0 to 1
        x = self.convolution(0, x, stride=2, padding="VALID")  # (N, 12, 12, 32)
        x = self.convolution(1, x, stride=1, padding="VALID")  # (N, 10, 10, 64)
        x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")  # (N, 5, 5, 64)
        x = self.convolution(2, x, stride=1, padding="VALID")  # (N, 3, 3, 128)
        x = self.convolution(3, x, stride=1, padding="SAME")  # (N, 3, 3, 128)
        x = tf.reshape(tf.cast(x, tf.float32), [-1, 3 * 3 * 128])  # (N, 1152)
        return tf.matmul(x, self.dense) + self.dense_biases  # (N, 10)

    def convolution(
        self, layer: int, x: tf.Tensor, stride: int, padding: str
    ) -> tf.Tensor:
        """Slide the layer's kernels over the images, add its biases, and cut off below zero."""
        kernel, biases = self.kernels[layer], self.biases[layer]
        x = tf.nn.conv2d(x, tf.cast(kernel, self.dtype), stride, padding)
        return tf.nn.relu(tf.nn.bias_add(x, tf.cast(biases, self.dtype)))

    @tf.function(reduce_retracing=True)
    def infer(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits as outside of training, compiled once for all batches."""
        return self(images)


# %% Loss
# Cross-entropy, the mean over the batch of -log(probability of the right digit). With label
# smoothing the network is asked for 91 % certainty, not for 100 %, which no finite logits reach
# (C. Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567).


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, 10) and labels (N,), averaged over the batch."""
    targets = tf.one_hot(labels, 10) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / 10
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows of logits (N, 10) whose largest entry is the label's."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


# %% Training step
# Adam keeps two moving averages for each weight: of its gradient, and of the gradient's square. The
# step is the first divided by the root of the second, so that all weights move at about the same
# pace, however large their gradients are (D. Kingma, J. Ba 2015, https://arxiv.org/abs/1412.6980).
# Both averages begin at zero and are too small at first; the factor in `rate` makes up for it.


class Training(tf.Module):
    """Everything that changes while training, so that a checkpoint of it holds the whole state."""

    def __init__(self, network: Network, epochs: int):
        super().__init__()
        self.network = network
        self.means = [
            tf.Variable(tf.zeros_like(v)) for v in network.trainable_variables
        ]
        self.squares = [
            tf.Variable(tf.zeros_like(v)) for v in network.trainable_variables
        ]
        self.step = tf.Variable(0, dtype=tf.int64)
        self.history = tf.Variable(tf.zeros([epochs, len(common.HISTORY)], tf.float64))

    @tf.function
    def train_step(self, images, labels, learning_rate, seed):
        """Go one step down the gradient of one batch; return its loss and accuracy, (2,)."""
        with tf.GradientTape() as tape:
            logits = self.network(augment(images, seed))
            loss = mean_loss(logits, labels)
        variables = self.network.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.step.assign_add(1)
        step = tf.cast(self.step, tf.float32)
        rate = learning_rate * tf.sqrt(1 - SQUARE_DECAY**step) / (1 - MEAN_DECAY**step)
        for variable, mean, square, gradient in zip(
            variables, self.means, self.squares, gradients, strict=True
        ):
            mean.assign(MEAN_DECAY * mean + (1 - MEAN_DECAY) * gradient)
            square.assign(SQUARE_DECAY * square + (1 - SQUARE_DECAY) * gradient**2)
            variable.assign_sub(rate * mean / (tf.sqrt(square) + TINY))
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        return tf.stack([loss, tf.reduce_mean(tf.cast(right, tf.float32))])


def one_cycle(done: float) -> float:
    """Return the learning rate's share of its peak when the share `done` of the steps is done."""
    return min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


# %% Evaluation


def predict(network: Network, images: np.ndarray, batch_size: int = 1000) -> np.ndarray:
    """Return logits (N, 10) for images (N, 28, 28, 1); no image is left out."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([network.infer(images[i : i + batch_size]) for i in starts])


def predict_from_nine_views(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the logits (9, N, 10) of nine views of each image; their mean is more certain.

    Moved by a pixel up, down, left, right or aslant, it stays the same digit. View 4 is the image.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = np.ndindex(3, 3)
    return np.stack(
        [predict(network, padded[:, y : y + 28, x : x + 28]) for y, x in places]
    )


# %% Run
# A checkpoint is written after every epoch. Order and augmentation depend only on the seed and the
# number of the step, so a run that was stopped ends with the same weights as one that was not.


def train(training: Training, data: mnist.Dataset, args, manager, stop_asked):
    """Train from the epoch where the checkpoint left off to the end of the last epoch."""
    images, labels = data.train_images[: args.train_images], data.train_labels
    steps = (
        len(images) // args.batch_size
    )  # in an epoch; images left over wait for the next
    print(common.EPOCH_HEADING)
    for epoch in range(int(training.step) // steps, args.epochs):
        started, rows = time.perf_counter(), []
        order = np.random.default_rng([args.seed, epoch]).permutation(len(images))
        for i in tqdm(range(steps), f"epoch {epoch + 1}", leave=False):
            batch, step = (
                order[i * args.batch_size : (i + 1) * args.batch_size],
                epoch * steps + i,
            )
            rate = args.learning_rate * one_cycle(
                (step + 1) / (steps * args.epochs + 1)
            )
            seed = tf.constant([args.seed, step])
            rows.append(
                training.train_step(
                    images[batch], labels[batch], tf.constant(rate), seed
                )
            )
        loss, right = np.mean(rows, axis=0)
        seconds = time.perf_counter() - started
        logits = predict(training.network, data.validation_images)
        validation_loss = float(mean_loss(logits, data.validation_labels))
        validation_right = accuracy(logits, data.validation_labels)
        row = [loss, right, validation_loss, validation_right, seconds]
        common.report_epoch(epoch + 1, row)
        training.history[epoch].assign(row)
        common.save(manager)
        if stop_asked() and epoch + 1 < args.epochs:
            raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or classify a picture."""
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
    network = Network(dtype, args.seed)
    if args.image:
        image = mnist.read_picture(args.image)
        common.read_weights(network, folder, __file__)
        probabilities = tf.nn.softmax(predict(network, image[None])[0]).numpy()
        return common.show_digit(image, probabilities, folder)

    data = mnist.load(args.data, args.data_dir)
    common.count_images(data, args)
    training = Training(network, args.epochs)
    parameters = sum(int(tf.size(variable)) for variable in network.trainable_variables)
    print(f"{parameters:,} parameters")

    settings = common.run_settings(args, dtype)
    checkpoints = folder / "checkpoints" / common.fingerprint(settings, __file__)
    manager = common.open_checkpoints(
        tf.train.Checkpoint(training=training), checkpoints, args.restart
    )
    if manager.latest_checkpoint:
        print(
            f"going on after step {int(training.step)}, from {common.shown(checkpoints)}"
        )
    with common.ctrl_c() as stop_asked:  # an epoch is never cut in half
        train(training, data, args, manager, stop_asked)

    views = predict_from_nine_views(network, data.test_images)
    logits = views.mean(axis=0)
    history = common.as_history(training.history)
    seconds = sum(history["seconds"])
    metrics = settings | {
        "data": data.name,
        "test_accuracy": accuracy(logits, data.test_labels),
        "test_accuracy_from_one_view": accuracy(views[4], data.test_labels),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(int(training.step) * args.batch_size / seconds),
        "parameters": parameters,
        "history": history,
    }
    probabilities, title = tf.nn.softmax(logits).numpy(), f"Example 05, {data.name}"
    pictures = common.plot_results(
        folder,
        history,
        data.test_images,
        data.test_labels,
        probabilities,
        data.class_names,
        title,
    )
    files = [*pictures, common.write_weights(network, folder), checkpoints]
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * --image with a photograph of a digit that you have written: what does the network take it for,
#   and what has become of it in picture.png?
# * ANGLE = 0, SHIFT = 0, LABEL_SMOOTHING = 0: which matters, and for which of the losses?
# * A stride of 1 in the first convolution and a max pooling behind it: how much slower, how much
#   better? (The last feature map stays 3 x 3.)
# * Replace Adam by the update rule of example 06.

if __name__ == "__main__":
    common.run(main)
