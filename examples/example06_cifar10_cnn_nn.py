"""Example 06: a convolutional network for CIFAR-10, written with tf.nn.

You will learn what a convolutional network is made of when no layer class hides it: convolution,
batch normalisation with its moving averages, pooling, softmax cross-entropy, the update rule,
augmentation, and checkpoints from which training goes on as if it had never been stopped.

    python examples/example06_cifar10_cnn_nn.py                  # CIFAR-10; downloads 170 MB once
    python examples/example06_cifar10_cnn_nn.py --data sample    # offline, on drawn sample data
    python examples/example06_cifar10_cnn_nn.py --channels 64 256 256 --epochs 32 --cutout 12

The last one is the long run, which takes about half an hour on two cores.

The README has the measured results, each with its machine, versions, seed and time.

Before this one: example 05, a convolutional network for MNIST. After it: example 07, which takes
over a network that others have trained on a million photographs.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from datasets import cifar10

NAME = Path(__file__).stem
EPOCHS = 9
BATCH_SIZE = 500
LEARNING_RATE = 0.12  # of the kernels, at the peak of the cycle
VALIDATION_SHARE = 50  # one in so many training images is held back; to make choices, 10
CHANNELS = (32, 64, 192)  # of the three stages, each of two convolutions
HEAD_RATE = 20.0  # so many times the kernels' is the learning rate of the dense layer
OFFSET_RATE = 160.0  # and that of the offsets of batch normalisation
MOMENTUM = 0.6
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.2
WARM_UP = 0.1  # share of the steps in which the learning rate rises; then it falls to zero
SHIFT = 2  # pixels by which an image is moved at most, in each direction
SMALL_SHARE = 0.6  # share of the epochs, the first ones, that see crops instead of whole images
SMALL = 24  # pixels: side of these crops
CUTOUT = 0  # pixels: side of the square that is hidden in each image
GREY = 120  # what is seen in its place, about the mean of all pixels
KEEP = 0.6  # share of the old moving average that is kept in every step
NOISE = 2.0  # variance below which a component is not worth blowing up, in squared pixel values
EPSILON = 1e-5  # keeps batch normalisation from dividing by zero
LOGIT_SCALE = 1 / 9  # small logits at the start, so that the high learning rate does no harm

# %% Data
# CIFAR-10 has 50,000 training images of 32 x 32 pixels in ten classes, and 10,000 test images
# (https://www.cs.toronto.edu/~kriz/cifar.html). Every choice in this file was made on the last
# 5,000 training images, held back for validation. Now that the choices are made, all but the last
# 1,000 are trained on, for a network learns more from more images. The test images are used once,
# at the end.
#
# Neighbouring pixels are nearly equal, so gradient descent would need long to find the small
# differences that matter. Whitening, a fixed first layer, turns every patch of 2 x 2 pixels into 12
# uncorrelated numbers of equal variance: the principal components of such patches, each divided by
# its standard deviation (A. Coates, H. Lee, A. Ng, AISTATS 2011, "Pre-processing").


def whitening_kernels(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the fixed first layer from some images, uint8 (N, 32, 32, 3).

    Returns:
        The mean of each colour, rounded, float32 (3,), and kernels, float32 (2, 2, 3, 12).
    """
    mean = images.mean(axis=(0, 1, 2)).round().astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(images - mean, (2, 2), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)  # (N * 31 * 31, 2 * 2 * 3)
    variances, components = np.linalg.eigh(np.cov(patches, rowvar=False))
    kernels = components / np.sqrt(variances + NOISE)  # one in each column
    return mean, kernels.reshape(2, 2, 3, 12).astype(np.float32)


# %% Convolution
# TensorFlow knows the gradients of its operations. That of the kernels is the slowest part of the
# step, and for the smallest images nine matrix products are faster: the weight at one of the nine
# places multiplies, in every window of every image, the pixel at that place; so its gradient is the
# sum, over all windows, of that pixel times the gradient of what came out.


@tf.custom_gradient
def convolution_by_hand(x: tf.Tensor, kernel: tf.Tensor):
    """Convolve images (N, H, W, inputs) with a kernel (3, 3, inputs, outputs), padded with zeros.

    Returns:
        The result (N, H, W, outputs), and a function from its gradient to those of x and kernel.
    """

    def gradients(upstream):
        _, height, width, inputs = x.shape
        padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        by_window = tf.reshape(upstream, [-1, upstream.shape[-1]])  # (N * H * W, outputs)
        of_kernel = []
        for row, column in np.ndindex(3, 3):
            pixels = padded[:, row : row + height, column : column + width]
            pixels = tf.reshape(pixels, [-1, inputs])  # (N * H * W, inputs)
            of_kernel.append(tf.matmul(pixels, by_window, transpose_a=True))
        of_x = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(x), strides=1, padding="SAME")
        return of_x, tf.reshape(tf.stack(of_kernel), kernel.shape)

    return tf.nn.conv2d(x, kernel, strides=1, padding="SAME"), gradients


# %% Model
# Three stages of two 3x3 convolutions. After the first convolution of a stage, max pooling halves
# height and width; after every convolution come batch normalisation and a ReLU. The largest value
# of each channel, wherever in the image it is, goes into one dense layer.


class Network(tf.Module):
    """The variables, all float32, and the way from images to logits, computed in `dtype`."""

    def __init__(self, images: np.ndarray, channels, classes: int, dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.mean, self.whitening = whitening_kernels(images)
        self.kernels, self.offsets, self.moving_means, self.moving_variances = [], [], [], []
        inputs = self.whitening.shape[-1]
        for outputs in np.repeat(channels, 2):
            kernel = rng.uniform(-1, 1, (3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
            same = min(inputs, outputs)  # the first outputs begin as copies of the inputs: the
            kernel[..., :same] = 0  # identity lets the signal through from the first step on
            kernel[1, 1, range(same), range(same)] = 1
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            self.offsets.append(tf.Variable(tf.zeros(outputs)))
            self.moving_means.append(tf.Variable(tf.zeros(outputs), trainable=False))
            self.moving_variances.append(tf.Variable(tf.ones(outputs), trainable=False))
            inputs = outputs
        head = rng.uniform(-1, 1, (inputs, classes)) / np.sqrt(inputs)
        self.head = tf.Variable(head, dtype=tf.float32)

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Compute float32 logits (N, classes) from uint8 images (N, 32, 32, 3)."""
        x = tf.cast(images, self.dtype) - tf.cast(self.mean, self.dtype)  # exact: whole numbers
        x = self.convolution(x, self.whitening)  # (N, 32, 32, 12)
        for layer, kernel in enumerate(self.kernels):
            x = self.convolution(x, kernel)
            if layer % 2 == 0:  # to (N, 16, 16, 32), (N, 8, 8, 64) and (N, 4, 4, 192)
                x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
            x = tf.nn.relu(self.batch_normalisation(x, layer, training))
        x = tf.cast(tf.reduce_max(x, axis=[1, 2]), tf.float32)  # (N, 192)
        return tf.matmul(x, self.head) * LOGIT_SCALE  # (N, 10)

    @tf.function(reduce_retracing=True)
    def infer(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits as outside of training, compiled once for all batches."""
        return self(images, training=False)

    def convolution(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Slide the kernel over the images; "SAME" pads with zeros, so height and width stay."""
        kernel = tf.cast(kernel, self.dtype)
        if x.shape[1] <= 4:
            return convolution_by_hand(x, kernel)
        return tf.nn.conv2d(x, kernel, strides=1, padding="SAME")

    def batch_normalisation(self, x: tf.Tensor, layer: int, training: bool) -> tf.Tensor:
        """Compute (x - mean) / sqrt(variance + epsilon) + offset, channel by channel.

        In training, mean and variance are those of the batch, and moving averages of them are
        kept. Otherwise the averages are used, so that an image's result does not depend on its
        neighbours (S. Ioffe, C. Szegedy 2015, https://arxiv.org/abs/1502.03167). The fused
        operation passes over memory once, several times as fast as tf.nn.moments.
        """
        mean, variance = self.moving_means[layer], self.moving_variances[layer]
        given = {} if training else {"mean": mean, "variance": variance}
        offset = self.offsets[layer]
        x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            x, tf.ones_like(offset), offset, epsilon=EPSILON, is_training=training, **given
        )
        if training:
            mean.assign(KEEP * mean + (1 - KEEP) * batch_mean)
            variance.assign(KEEP * variance + (1 - KEEP) * batch_variance)
        return x


# %% Loss
# The cross-entropy is computed from logits: log(softmax(x)) in one step cannot overflow. Label
# smoothing asks for 82 % certainty; a network that is asked for 100 % makes its logits ever
# larger (C. Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567).


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, C) and labels (N,), averaged over the batch."""
    classes = logits.shape[-1]
    targets = tf.one_hot(labels, classes) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


# %% Update rule
# Gradient descent with momentum goes along a velocity, a fading sum of gradients; Nesterov's looks
# one velocity ahead (I. Sutskever et al., ICML 2013, section 2). Written as a matrix, the velocity
# of a kernel is long in a few directions and very short in all others, along which the network
# hardly learns. So the step of a kernel is made about equally long in all directions: U V^T in
# place of U S V^T, its singular value decomposition (K. Jordan et al. 2024, "Muon",
# https://kellerjordan.github.io/posts/muon/).


def orthogonal(matrix: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return about U V^T, computed in `dtype`, for a float32 matrix U S V^T.

    The decomposition itself would take too long. A polynomial of the matrix with odd powers only
    changes nothing but the singular values: here s becomes 3.4445 s - 4.7750 s^3 + 2.0315 s^5.
    Three times in a row, that brings all that are not tiny near 1.
    """
    matrix = tf.cast(matrix / (tf.norm(matrix) + 1e-7), dtype)  # no singular value is above 1 now
    for _ in range(3):
        square = tf.matmul(matrix, matrix, transpose_a=True)
        factor = -4.7750 * square + 2.0315 * tf.matmul(square, square)
        matrix = 3.4445 * matrix + tf.matmul(matrix, factor)
    return tf.cast(matrix, tf.float32)


def update(variable, velocity, gradient, learning_rate: tf.Tensor, dtype: tf.DType) -> None:
    """Change a variable and its velocity: SGD with Nesterov momentum and weight decay.

    Weight decay draws the dense layer to zero. Kernels are brought to the same length in every step
    instead; batch normalisation undoes what that changes in their outputs.
    """
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


# %% Training step
# Augmentation shows the network another image every time: moved by up to two pixels, and mirrored
# in every other epoch; one operation inside the compiled step does both. A network that trains long
# enough learns even these by heart. Then it helps to hide a part of each (T. DeVries, G. Taylor
# 2017, https://arxiv.org/abs/1708.04552).
#
# Convolutions slide over images of any size, and the last pooling takes the largest value wherever
# it is. So the first epochs can learn from small images, here from random crops, in little more
# than half the time, and the later ones refine on whole images what they have learned (M. Tan,
# Q. Le, ICML 2021, section 4, https://arxiv.org/abs/2104.00298).


def augment(images, mirrored, seed, cutout: int, size: int) -> tf.Tensor:
    """Mirror and shift images, or crop them, and hide a square in each.

    Args:
        images: uint8 (N, 32, 32, 3).
        mirrored: float32 (N,), 1 for images to mirror and else 0.
        seed: int32 (2,).
        cutout: side of the square in pixels; it may reach over the border.
        size: side of the results in pixels. Results as large as the images are moved by up to
            SHIFT, and at the border comes in their reflection; smaller ones are cut out anywhere.

    Returns:
        Images, uint8 (N, size, size, 3).
    """
    count, room = tf.shape(images)[0], images.shape[1] - size
    low, high = (0, room) if room else (-SHIFT, SHIFT)
    moves = tf.random.stateless_uniform([2, count], seed, low, high + 1, tf.int32)
    dx, dy = tf.unstack(tf.cast(moves, tf.float32))
    zero, one = tf.zeros_like(dx), tf.ones_like(dx)
    # Pixel (x, y) of the result is pixel (a x + b y + c, d x + e y + f) of the image.
    a, c = 1 - 2 * mirrored, dx + mirrored * (size - 1)
    images = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, zero, c, zero, one, dy, zero, zero], axis=1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="REFLECT",
    )
    if cutout:
        corner = tf.random.stateless_uniform([2, count, 1], seed + 1, -cutout + 1, size, tf.int32)
        distance = tf.range(size) - corner  # of each row and of each column from the square's first
        rows, columns = tf.unstack((distance >= 0) & (distance < cutout))  # (N, size)
        hidden = rows[:, :, None, None] & columns[:, None, :, None]  # (N, size, size, 1)
        images = tf.where(hidden, tf.constant(GREY, tf.uint8), images)
    return images


class Training(tf.Module):
    """Everything that changes while training, so that a checkpoint of it holds the whole state."""

    def __init__(self, network: Network, epochs: int, cutout: int = CUTOUT):
        super().__init__()
        self.network, self.cutout = network, cutout
        self.velocities = [tf.Variable(tf.zeros_like(v)) for v in network.trainable_variables]
        self.step = tf.Variable(0, dtype=tf.int64)
        self.sums = tf.Variable(tf.zeros(3, tf.float64))  # loss, accuracy, seconds, of this epoch
        self.history = tf.Variable(tf.zeros([epochs, len(common.HISTORY)], tf.float64))

    @tf.function
    def train_step(self, images, labels, mirrored, learning_rate, seed, size: int):
        """Learn from one batch, in images of `size` pixels; each size is compiled by itself."""
        with tf.GradientTape() as tape:
            images = augment(images, mirrored, seed, self.cutout, size)
            logits = self.network(images, training=True)
            loss = mean_loss(logits, labels)
        variables = self.network.trainable_variables
        gradients = tape.gradient(loss, variables)
        for variable, velocity, gradient in zip(variables, self.velocities, gradients, strict=True):
            update(variable, velocity, gradient, learning_rate, self.network.dtype)
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
        self.sums.assign_add(tf.cast([loss, accuracy, 0.0], tf.float64))
        self.step.assign_add(1)


def one_cycle(done: float) -> float:
    """Return the learning rate's share of its peak when the share `done` of the steps is done."""
    return min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


# %% Evaluation


def predict(network: Network, images: np.ndarray, batch_size: int = 1000) -> np.ndarray:
    """Return logits (N, classes) for images (N, 32, 32, 3).

    No image is left out; the last batch is as long as it comes out.
    """
    starts = range(0, len(images), batch_size)
    return np.concatenate([network.infer(images[i : i + batch_size]).numpy() for i in starts])


def predict_from_six_views(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the logits (6, N, classes) of six views of each image; their mean is more certain.

    A mirrored cat is a cat, and so is one that sits a pixel further down: the image itself, moved
    by a pixel up and left, down and right, and the mirror images of all three.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    size = images.shape[1]
    moved = [padded[:, start : start + size, start : start + size] for start in (1, 0, 2)]
    return np.stack([predict(network, x[:, :, ::d]) for x in moved for d in (1, -1)])


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows of logits (N, classes) whose largest entry is the label's."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def plot_kernels(network: Network, path: Path) -> Path:
    """Draw what the first learned layer looks for, as 4x4 patches of colour.

    Whitening is linear, so its 2x2 kernels and the 3x3 kernels of the first learned layer together
    are one convolution with 4x4 kernels on three colours.
    """
    first = network.kernels[0].numpy()  # (3, 3, 12, filters)
    kernels = np.zeros((4, 4, 3, first.shape[-1]), np.float32)
    for row, column in np.ndindex(3, 3):
        kernels[row : row + 2, column : column + 2] += network.whitening @ first[row, column]
    kernels = 0.5 + 0.5 * kernels / np.abs(kernels).max(axis=(0, 1, 2))
    return common.plot_images(kernels.transpose(3, 0, 1, 2)[:32], path, "Kernels of example 06")


# %% Run
# A checkpoint is written after every epoch, and on Ctrl-C after the step at hand. Order, mirroring
# and shifts depend only on the seed and the number of the step, so a run that was stopped, even by
# a power cut, ends with the same weights as one that was not.


def train(training: Training, data: cifar10.Dataset, args, manager: tf.train.CheckpointManager):
    """Train from the step where the checkpoint left off to the end of the last epoch."""
    images, labels = data.train_images[: args.train_images], data.train_labels
    steps = len(images) // args.batch_size  # in an epoch; images left over wait for the next
    mirrored = np.random.default_rng(args.seed).integers(0, 2, len(images))
    print(common.EPOCH_HEADING)
    with common.ctrl_c() as stop_asked:
        for epoch in range(int(training.step) // steps, args.epochs):
            order = np.random.default_rng([args.seed, epoch]).permutation(len(images))
            size = SMALL if epoch < int(SMALL_SHARE * args.epochs) else images.shape[1]
            before, started = training.sums[2].numpy(), time.perf_counter()
            done = int(training.step) % steps
            bar = tqdm(range(done, steps), f"epoch {epoch + 1}", steps, leave=False, initial=done)
            for i in bar:
                batch = order[i * args.batch_size : (i + 1) * args.batch_size]
                step = epoch * steps + i
                rate = args.learning_rate * one_cycle((step + 1) / (steps * args.epochs + 1))
                training.train_step(
                    images[batch],
                    labels[batch],
                    ((mirrored[batch] + epoch) % 2).astype(np.float32),
                    tf.constant(rate, tf.float32),
                    tf.constant([args.seed, step]),
                    size,
                )
                training.sums[2].assign(before + time.perf_counter() - started)
                if stop_asked() and i + 1 < steps:  # a whole epoch is saved below
                    bar.close()
                    saved = common.shown(common.save(manager))
                    print(f"stopped after step {step + 1}; saved {saved}")
                    raise KeyboardInterrupt
            logits = predict(training.network, data.validation_images)
            loss, right, seconds = training.sums.numpy() / (steps, steps, 1)
            validation_loss = float(mean_loss(logits, data.validation_labels))
            validation_right = accuracy(logits, data.validation_labels)
            row = [loss, right, validation_loss, validation_right, seconds]
            common.report_epoch(epoch + 1, row)
            training.history[epoch].assign(row)
            training.sums.assign([0.0, 0.0, 0.0])
            common.save(manager)
            if stop_asked() and epoch + 1 < args.epochs:
                raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--channels", type=common.positive_int, nargs=3, default=CHANNELS, help="of the stages")
    help_text = "side of the square to hide in each image, in pixels"
    add("--cutout", type=int, choices=range(33), metavar="N", default=CUTOUT, help=help_text)
    add("--restart", action="store_true", help="begin anew, whatever checkpoints there are")
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)
    folder = args.models_dir / NAME

    data = cifar10.load(args.data, args.data_dir, VALIDATION_SHARE)
    count = common.count_images(data, args)
    labels, names = data.test_labels, data.class_names
    some = data.train_images[: min(1000, count)]
    network = Network(some, args.channels, len(names), dtype, args.seed)
    training = Training(network, args.epochs, args.cutout)
    parameters = sum(int(tf.size(variable)) for variable in network.trainable_variables)
    print(f"{parameters:,} parameters")

    settings = common.run_settings(args, dtype, "channels", "cutout")
    checkpoints = folder / "checkpoints" / common.fingerprint(settings, __file__)
    checkpoint = tf.train.Checkpoint(training=training)
    manager = common.open_checkpoints(checkpoint, checkpoints, args.restart)
    if manager.latest_checkpoint:
        print(f"going on after step {int(training.step)}, from {common.shown(checkpoints)}")
    train(training, data, args, manager)

    views = predict_from_six_views(network, data.test_images)
    probabilities = tf.nn.softmax(views.mean(axis=0)).numpy()
    history = common.as_history(training.history)
    seconds = sum(history["seconds"])
    metrics = settings | {
        "data": data.name,
        "test_accuracy": accuracy(probabilities, labels),
        "test_accuracy_from_one_view": accuracy(views[0], labels),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(int(training.step) * args.batch_size / seconds),
        "parameters": parameters,
        "history": history,
    }
    title = f"Example 06, {data.name}"
    files = [
        *common.plot_results(
            folder, history, data.test_images, labels, probabilities, names, title
        ),
        plot_kernels(network, folder / "first_kernels.png"),
        checkpoints,
    ]
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * --channels 16 32 64 and 64 128 256: what do four times as many multiplications buy?
# * SHIFT = 0, LABEL_SMOOTHING = 0, WARM_UP = 0.5: which matters most after 8 epochs, after 20?
# * Plain SGD: leave out what the update does to kernels alone, with --learning-rate 1,
#   MOMENTUM = 0.85, HEAD_RATE = 1 and OFFSET_RATE = 8. How many more epochs does it need?
# * Leave the whitening out (feed the scaled image to the first convolution); compare epoch 1.
# * Replace tf.nn.relu with tf.nn.gelu: is it better by the epoch, and by the second?

if __name__ == "__main__":
    common.run(main)
