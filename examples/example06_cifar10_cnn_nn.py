"""Example 06: a convolutional network for CIFAR-10, written with tf.nn.

You will learn what a convolutional network (CNN) is made of when no layer class hides
it: convolution, batch normalisation, pooling, stochastic gradient descent with momentum
and weight decay, a learning-rate schedule, augmentation; and how a training can be
stopped at any moment and continued.

    python examples/example06_cifar10_cnn_nn.py                # downloads 170 MB once
    python examples/example06_cifar10_cnn_nn.py --data sample  # offline, on drawings

The recipe is that of residual networks, batch normalisation, SGD with momentum 0.9,
weight decay, flips and shifts (K. He et al. 2015, section 4.2,
https://arxiv.org/abs/1512.03385), with the one-cycle schedule of L. Smith and N. Topin
(2017, https://arxiv.org/abs/1708.07120), on a network small enough for a laptop.
docs/results.md has the measured results. Before this one: example 05, a convolutional
network for MNIST. After it: example 07, which takes over a network that others have
trained. Example 14 shows how far the same training can be sped up.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from datasets import cifar10
from examples.helpers.run import Run
from models.training import accuracy, count_parameters, mean_loss, one_cycle, predict

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 8, 250
LEARNING_RATE = 0.3  # at the peak of the cycle
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
WARM_UP = 0.2  # share of the steps in which the learning rate rises
CHANNELS = (32, 64, 128)  # of the three stages, each of two convolutions
SHIFT = 2  # pixels by which an image is moved at most, in each direction
VALIDATION_SHARE = 50  # one in so many training images is held back; to choose, 10
KEEP = 0.9  # share of a moving average that is kept in every step
EPSILON = 1e-3  # keeps batch normalisation from dividing by zero

# %% Data
# CIFAR-10 has 50,000 training images of 32 x 32 pixels in ten classes, and 10,000 test
# images (A. Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html). The last
# 1,000 training images are held back for validation; they were 5,000 when choices, such
# as the numbers above, were made on them. The test images are used once, at the end.
#
# A cat that is mirrored, or sits two pixels further down, is still a cat. Showing every
# image flipped and shifted at random, anew in each epoch, is *augmentation*: the
# network cannot learn by heart what it never sees twice. What comes in at the border is
# the image's own reflection.


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip half of the images, uint8 (N, 32, 32, 3), and move each by up to SHIFT."""
    count, size = images.shape[:2]
    border = (SHIFT, SHIFT)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")
    tops, lefts = rng.integers(0, 2 * SHIFT + 1, (2, count))
    flips = rng.random(count) < 0.5
    moved = np.empty_like(images)
    for i in range(count):
        crop = padded[i, tops[i] : tops[i] + size, lefts[i] : lefts[i] + size]
        moved[i] = crop[:, ::-1] if flips[i] else crop
    return moved


# %% Batch normalisation
# Each channel is brought to mean 0 and variance 1 over the batch and all pixels, then
# scaled and moved by two numbers that are learned:
#
# $$y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta$$
#
# so that a layer's inputs stay in the same range while the layers below it change, and
# high learning rates do no harm (S. Ioffe, C. Szegedy 2015,
# https://arxiv.org/abs/1502.03167). For a single image there is no batch: outside of
# training, moving averages of $\mu$ and $\sigma^2$ take their place.


class BatchNormalisation(tf.Module):
    """The four vectors of one batch normalisation, float32 (channels,) each."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = tf.Variable(tf.ones(channels))
        self.offset = tf.Variable(tf.zeros(channels))
        self.moving_mean = tf.Variable(tf.zeros(channels), trainable=False)
        self.moving_variance = tf.Variable(tf.ones(channels), trainable=False)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Normalise x, (N, H, W, channels) of any float type, channel by channel."""
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = tf.nn.moments(tf.cast(x, tf.float32), axes=[0, 1, 2])
            pairs = (self.moving_mean, mean), (self.moving_variance, variance)
            for average, value in pairs:
                average.assign(KEEP * average + (1 - KEEP) * value)
        factor = self.scale * tf.math.rsqrt(variance + EPSILON)
        shift = self.offset - mean * factor
        return x * tf.cast(factor, x.dtype) + tf.cast(shift, x.dtype)


# %% Model
# Three stages of two 3 x 3 convolutions. After the first convolution of a stage, max
# pooling halves height and width; after every convolution come batch normalisation and
# a ReLU. The mean of each channel over the image goes into one dense layer.
#
#   3 x 3, 32, max pooling     16 x 16 x  32        864 weights
#   3 x 3, 32                  16 x 16 x  32      9,216
#   3 x 3, 64, max pooling      8 x  8 x  64     18,432
#   3 x 3, 64                   8 x  8 x  64     36,864
#   3 x 3, 128, max pooling     4 x  4 x 128     73,728
#   3 x 3, 128                  4 x  4 x 128    147,456
#   mean, dense                           10      1,290
#
# Weights are float32. Convolutions are computed in `dtype`: bfloat16, which has the
# range of float32 but only two to three decimal digits, where the processor multiplies
# it natively. That is twice as fast there, and what is rounded away is far smaller than
# the noise of a batch's gradient.


class Network(tf.Module):
    """The variables, and the way from images to logits."""

    def __init__(self, channels: tuple[int, ...], dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.kernels, self.norms = [], []
        inputs = 3
        for outputs in np.repeat(channels, 2):
            # As strong a signal behind the ReLU as before it (arXiv 1502.01852)
            deviation = np.sqrt(2 / (9 * inputs))
            kernel = rng.normal(0, deviation, (3, 3, inputs, outputs))
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            self.norms.append(BatchNormalisation(outputs))
            inputs = outputs
        self.head = tf.Variable(tf.zeros([inputs, 10]))
        self.bias = tf.Variable(tf.zeros(10))

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Compute float32 logits (N, 10) from uint8 images (N, 32, 32, 3)."""
        x = (tf.cast(images, self.dtype) - 120) / 64  # about -2 to 2
        for layer, norm in enumerate(self.norms):
            kernel = tf.cast(self.kernels[layer], self.dtype)
            x = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
            if layer % 2 == 0:  # pooled first: a quarter is left to normalise
                x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
            x = tf.nn.relu(norm(x, training))
        x = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])  # (N, 128)
        return tf.matmul(x, self.head) + self.bias

    @tf.function(reduce_retracing=True)
    def infer(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits outside of training, compiled once for all batch sizes."""
        return self(images, training=False)


# %% Training step
# The loss is the cross-entropy of example 03. Stochastic gradient descent goes along a
# velocity $v$, a fading sum of gradients $g$, in which the noise of single batches
# cancels out; Nesterov's looks one velocity ahead (I. Sutskever et al., ICML 2013,
# section 2). Weight decay draws the weights $w$ to zero:
#
# $$g \leftarrow g + \lambda w,\qquad v \leftarrow \mu v + g,\qquad
#   w \leftarrow w - \eta\,(g + \mu v)$$


class SGD(tf.Module):
    """Stochastic gradient descent with Nesterov momentum and weight decay."""

    def __init__(self, variables: tuple[tf.Variable, ...]):
        super().__init__()
        self.weights = list(variables)
        self.velocities = [tf.Variable(tf.zeros_like(w)) for w in self.weights]

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Take one step against the gradients."""
        triples = zip(self.weights, self.velocities, gradients, strict=True)
        for weight, velocity, gradient in triples:
            gradient += WEIGHT_DECAY * weight
            velocity.assign(MOMENTUM * velocity + gradient)
            weight.assign_sub(learning_rate * (gradient + MOMENTUM * velocity))


def make_train_step(network: Network, optimizer: SGD):
    """Return a compiled function that learns from a batch."""

    @tf.function
    def train_step(images, labels, learning_rate):
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = mean_loss(logits, labels)
        gradients = tape.gradient(loss, optimizer.weights)
        optimizer.apply(gradients, learning_rate)
        return {"loss": loss, "accuracy": accuracy(logits, labels)}

    return train_step


# %% Evaluation
# A cat in the mirror is a cat: the mean of the logits of an image and of its mirror
# image is more certain than either. The accuracy from a single look is reported, too.


def plot_kernels(network: Network, path: Path) -> Path:
    """Draw what the first layer looks for, as patches of 3 x 3 pixels."""
    kernels = network.kernels[0].numpy().transpose(3, 0, 1, 2)  # (32, 3, 3, 3)
    kernels = 0.5 + 0.5 * kernels / np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    title = "Example 06: kernels of the first layer"
    return report.plot_images(kernels, path, title, columns=8, inch=0.45)


# %% Run
# `Run` (examples/helpers/run.py) counts epochs and steps, shows the bar, averages what
# the steps return, and writes a checkpoint after every epoch and on Ctrl-C: the
# network's variables, the optimizer's velocities, and the number of the step. The order
# of the images and their augmentation depend on nothing but the seed and that number.
# So a run that was stopped, even by a power cut, goes on with the same command and ends
# with the same weights, to the last bit, as one that was not.


def train(run: Run, network, optimizer, data: cifar10.Dataset, count, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    train_step = make_train_step(network, optimizer)
    for epoch in run:
        order = np.random.default_rng([args.seed, epoch]).permutation(count)
        for step in run.steps():
            batch = order[step * args.batch_size : (step + 1) * args.batch_size]
            rng = np.random.default_rng([args.seed, epoch, step])
            images = augment(data.train_images[batch], rng)
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            run.record(train_step(images, data.train_labels[batch], rate))
        logits = predict(network.infer, data.validation_images)
        loss = mean_loss(logits, data.validation_labels)
        share = accuracy(logits, data.validation_labels)
        run.validate({"validation_loss": loss, "validation_accuracy": share})


# %% Main program
# The settings, which name the checkpoint, are all flags that decide what a training
# comes to: with another learning rate another run begins, and the old one stays. The
# test images are looked at once, as they are and mirrored, when training is over.


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    data = cifar10.load(args.data, args.data_dir, VALIDATION_SHARE)
    count = len(data.train_images[: args.train_images])
    print(data.summary(count))
    network = Network(CHANNELS, dtype, args.seed)
    optimizer = SGD(network.trainable_variables)
    print(f"{count_parameters(network):,} parameters")

    settings = cli.settings(args, dtype)
    steps = count // args.batch_size  # images left over wait for the next epoch
    trained = {"network": network, "velocities": optimizer}
    run = Run(folder, settings, __file__, args.epochs, steps, args.restart, **trained)
    train(run, network, optimizer, data, count, args)

    one_view = predict(network.infer, data.test_images)
    logits = (one_view + predict(network.infer, data.test_images[:, :, ::-1])) / 2
    probabilities = tf.nn.softmax(logits).numpy()
    metrics = settings | run.metrics(args.batch_size)
    metrics |= {
        "data": data.name,
        "test_accuracy": float(accuracy(logits, data.test_labels)),
        "test_accuracy_from_one_view": float(accuracy(one_view, data.test_labels)),
        "parameters": count_parameters(network),
    }
    answers = data.test_images, data.test_labels, probabilities, data.class_names
    files = report.plot_results(folder, NAME, metrics["history"], *answers)
    files += [plot_kernels(network, folder / "first_kernels.png"), run.folder]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `CHANNELS = (16, 32, 64)` and (64, 128, 256): what do four times as many weights
#   buy?
# * `SHIFT = 0` and no flips: how far do training and validation accuracy part?
# * `WARM_UP = 0.01`, or a constant learning rate: what does the schedule do?
# * Leave batch normalisation out: up to which learning rate does it still learn?
# * Press Ctrl-C, give the same command again: is the test accuracy the same?

if __name__ == "__main__":
    cli.run(main)
