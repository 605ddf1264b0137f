"""Example 05: a convolutional network for MNIST, written with tf.nn.

You will learn what the layers of example 04 do: every weight is a variable that you
make, every operation a function that you call, and the update of the weights is four
lines of arithmetic. It is the same network; the same weights give the same logits.

    python examples/example05_mnist_cnn_nn.py                  # downloads 12 MB once
    python examples/example05_mnist_cnn_nn.py --data sample    # offline, on drawings
    python examples/example05_mnist_cnn_nn.py --image seven.png   # what digit is this?

docs/results.md has the measured results. Before this one: example 04, which has the
same recipe and says where it comes from. After it: example 06, a network for colour
photographs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from datasets import mnist
from examples.helpers.run import Run
from models.augmentation import nine_views, turn_resize_move
from models.saved import read_weights, write_weights
from models.training import accuracy, count_parameters, one_cycle, predict, scores

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 6, 128
LEARNING_RATE = 5e-3  # at the peak of the cycle
WARM_UP = 0.2  # share of the steps in which the learning rate rises
MEAN_DECAY, SQUARE_DECAY = 0.9, 0.999  # of Adam's averages, called beta 1 and beta 2
TINY = 1e-7  # keeps Adam from dividing by zero
LABEL_SMOOTHING = 0.1
ANGLE, ZOOM, SHIFT = 0.2, 0.15, 2  # by which images change at most, as in example 04

# %% Data
# MNIST's digits, each turned, resized and moved anew in every epoch, as in example 04.

# %% Model
# A convolution lays a small kernel on the image, multiplies each weight with the pixel
# below it, adds up, and moves on. How far it moves is the stride; whether it may reach
# over the border, the padding:
#
# * `"SAME"`: it may, and zeros are put around the image for it. $n$ pixels become
#   $\lceil n / s \rceil$ with a stride of $s$.
# * `"VALID"`: it may not. $n$ pixels become $\lceil (n - k + 1) / s \rceil$ with a
#   kernel of $k$.
#
# Each kernel looks for one thing everywhere and makes one channel of the output. A
# kernel has a weight for each of its places and each channel of its input: the first
# convolution has $5 \cdot 5 \cdot 1 \cdot 32 = 800$. What comes out of the layers, and
# how many weights they have, without biases:
#
#   operation    kernel  stride  padding         output  weights
#   convolution  5 x 5      2    "VALID"  12 x 12 x  32      800
#   convolution  3 x 3      1    "VALID"  10 x 10 x  64   18,432
#   max pooling  2 x 2      2    "VALID"   5 x  5 x  64     none
#   convolution  3 x 3      1    "VALID"   3 x  3 x 128   73,728
#   convolution  3 x 3      1    "SAME"    3 x  3 x 128  147,456
#   dense                                            10   11,520
#
# A dense layer in place of the first convolution would need
# $784 \cdot 12 \cdot 12 \cdot 32 = 3{,}612{,}672$ weights to make as many outputs, and
# would have to learn each stroke anew at every place.


class Network(tf.Module):
    """The variables, all float32, and the way from images to logits, in `dtype`."""

    def __init__(self, dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype

        def weights(*shape):
            """Draw weights so that outputs vary as much as inputs do (K. He 2015)."""
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            return tf.Variable(rng.normal(0, deviation, shape), dtype=tf.float32)

        self.kernels = [weights(5, 5, 1, 32), weights(3, 3, 32, 64)]
        self.kernels += [weights(3, 3, 64, 128), weights(3, 3, 128, 128)]
        self.biases = [tf.Variable(tf.zeros(k.shape[-1])) for k in self.kernels]
        self.dense = weights(3 * 3 * 128, 10)
        self.dense_biases = tf.Variable(tf.zeros(10))

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

    def convolution(self, layer: int, x, stride: int, padding: str) -> tf.Tensor:
        """Slide the layer's kernels over x, add biases, and cut off below zero."""
        kernel, biases = self.kernels[layer], self.biases[layer]
        x = tf.nn.conv2d(x, tf.cast(kernel, self.dtype), stride, padding)
        return tf.nn.relu(tf.nn.bias_add(x, tf.cast(biases, self.dtype)))

    @tf.function(reduce_retracing=True)
    def infer(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits outside of training, compiled once for all batch sizes."""
        return self(images)


# %% Loss
# Cross-entropy, the mean over the batch of $-\ln p$, where $p$ is the probability of
# the right digit, as in example 03. With label smoothing the network is asked for 91 %
# certainty, not for 100 %, which no finite logits reach (C. Szegedy et al. 2016,
# section 7, https://arxiv.org/abs/1512.00567).


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, 10) and labels (N,), averaged over N."""
    targets = tf.one_hot(labels, 10) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / 10
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


# %% Training step
# Adam keeps two moving averages for each weight $w$: $m$ of its gradient $g$, and $s$
# of the gradient's square. The step is the first divided by the root of the second, so
# that all weights move at about the same pace, however large their gradients are (D.
# Kingma, J. Ba 2015, https://arxiv.org/abs/1412.6980):
#
# $$\begin{aligned}
#   m &\leftarrow \beta_1 m + (1 - \beta_1)\,g, \\
#   s &\leftarrow \beta_2 s + (1 - \beta_2)\,g^2, \\
#   w &\leftarrow w - \eta\,\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
#     \frac{m}{\sqrt{s} + \varepsilon}
# \end{aligned}$$
#
# Both averages begin at zero and are too small at first; the fraction with the number
# of the step, $t$, makes up for it.


class Adam(tf.Module):
    """The moving averages, and the update that they lead to."""

    def __init__(self, variables: tuple[tf.Variable, ...]):
        super().__init__()
        self.weights = list(variables)
        self.means = [tf.Variable(tf.zeros_like(w)) for w in self.weights]
        self.squares = [tf.Variable(tf.zeros_like(w)) for w in self.weights]
        self.step = tf.Variable(0.0)

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Take one step against the gradients."""
        step = self.step.assign_add(1)
        rate = learning_rate * tf.sqrt(1 - SQUARE_DECAY**step) / (1 - MEAN_DECAY**step)
        rows = zip(self.weights, self.means, self.squares, gradients, strict=True)
        for weight, mean, square, gradient in rows:
            mean.assign(MEAN_DECAY * mean + (1 - MEAN_DECAY) * gradient)
            square.assign(SQUARE_DECAY * square + (1 - SQUARE_DECAY) * gradient**2)
            weight.assign_sub(rate * mean / (tf.sqrt(square) + TINY))


# %% The step as a graph
# A batch is changed at random, goes through the network, and the tape goes back from
# the loss to the gradients, which Adam takes into the weights. Within tf.function all
# of this is one graph (example 01), which is traced once for batches of one shape. So
# what differs from step to step, the learning rate and the seed, comes in as tensors: a
# Python number would be built into the graph, and a new one would need a new graph.


def make_train_step(network: Network, optimizer: Adam):
    """Return a compiled function that learns from a batch, changed as `seed` has it."""

    @tf.function
    def train_step(images, labels, learning_rate, seed):
        images = turn_resize_move(images, seed, ANGLE, ZOOM, SHIFT)
        with tf.GradientTape() as tape:
            logits = network(images)
            loss = mean_loss(logits, labels)
        gradients = tape.gradient(loss, optimizer.weights)
        optimizer.apply(gradients, learning_rate)
        return {"loss": loss, "accuracy": accuracy(logits, labels)}

    return train_step


# %% A picture of your own
# The weights of the last run are read from a file, so that nothing has to be trained
# again. The picture is made to look like MNIST's: ink 255 on paper 0, fitted into 20 x
# 20 pixels, centred by its mass (datasets/digits.py). A network knows only what it was
# shown, and may be wrong with all confidence about what is prepared in another way.


def classify(picture: Path, network: Network, folder: Path) -> dict:
    """Say which digit a picture shows, by what the last run has learned."""
    image = mnist.read_picture(picture)  # (28, 28, 1)
    read_weights(network, folder, __file__)
    probabilities = tf.nn.softmax(predict(network.infer, image[None])[0]).numpy()
    return report.show_answer(image, probabilities, "0123456789", folder)


# %% Run
# In every epoch the images come in a new order, without which the network would learn
# that order, too. What is drawn at random depends on the seed, the epoch and the number
# of the step alone. So a run that was stopped and continued ends with the weights of
# one that was not; example 06 explains how.


def train(run: Run, network, optimizer, data: mnist.Dataset, count: int, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    train_step = make_train_step(network, optimizer)
    for epoch in run:
        order = np.random.default_rng([args.seed, epoch]).permutation(count)
        for step in run.steps():
            batch = order[step * args.batch_size : (step + 1) * args.batch_size]
            images, labels = data.train_images[batch], data.train_labels[batch]
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            seed = tf.constant([args.seed, run.step])
            run.record(train_step(images, labels, rate, seed))
        logits = predict(network.infer, data.validation_images)
        run.validate(scores(logits, data.validation_labels, LABEL_SMOOTHING))


# %% Main program
# The functions above in their order. In the end the network sees each test image nine
# times, moved by up to a pixel, as example 04 explains, and the mean of nine answers
# counts; the accuracy from one view is kept beside it, since this is what others
# report. The weights go into a file of their own, which example 08 and example 12 read.


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or classify a picture."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument("--image", type=Path, help="picture of a digit to classify")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    network = Network(dtype, args.seed)
    if args.image:
        return classify(args.image, network, folder)

    data = mnist.load(args.data, args.data_dir)
    count = len(data.train_images[: args.train_images])
    print(data.summary(count))
    optimizer = Adam(network.trainable_variables)
    print(f"{count_parameters(network):,} parameters")
    settings, steps = cli.settings(args, dtype), count // args.batch_size
    trained = {"network": network, "optimizer": optimizer}
    run = Run(folder, settings, __file__, args.epochs, steps, args.restart, **trained)
    train(run, network, optimizer, data, count, args)

    nine = nine_views(data.test_images)
    views = np.stack([predict(network.infer, images) for images in nine])
    probabilities = tf.nn.softmax(views.mean(axis=0)).numpy()
    metrics = settings | run.metrics(args.batch_size)
    metrics |= {
        "data": data.name,
        "test_accuracy": float(accuracy(probabilities, data.test_labels)),
        "test_accuracy_from_one_view": float(accuracy(views[4], data.test_labels)),
        "parameters": count_parameters(network),
    }
    answers = data.test_images, data.test_labels, probabilities, data.class_names
    files = report.plot_results(folder, "Example 05", metrics["history"], *answers)
    files += [write_weights(network, folder), run.folder]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `--image` with a photograph of a digit that you have written: what does the network
#   take it for, and what has become of it in picture.png?
# * `ANGLE = 0`, `SHIFT = 0`, `LABEL_SMOOTHING = 0`: which matters, and for which loss?
# * A stride of 1 in the first convolution and max pooling behind it: is it better?
# * Replace Adam by the update rule of example 06.

if __name__ == "__main__":
    cli.run(main)
