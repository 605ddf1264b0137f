"""Note 6: convolution against TensorFlow and SciPy, sizes, padding, receptive fields."""

import itertools
import math

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf
from notes import normal
from scipy import signal

from examples import example05_mnist_cnn_nn as example05
from examples import example12_npz_weights as example12
from models import vgg16

figures = programs.figures("convolution")
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_listing_and_example_12_compute_what_tensorflow_computes(stride):
    image, kernel = normal(9, 8, 3), normal(4, 3, 3, 5, seed=1)
    expected = tf.nn.conv2d(image[None], kernel, stride, "VALID")
    listing = notes.run_listings(6)["convolution"]
    np.testing.assert_allclose(listing(image, kernel, stride), expected[0], **CLOSE)
    by_matrix = example12.convolution(image[None], kernel, np.zeros(5), stride)
    np.testing.assert_allclose(by_matrix, expected, **CLOSE)


def test_it_is_a_correlation_and_the_turned_kernel_makes_a_convolution_of_it():
    image, kernel = normal(9, 8), normal(3, 4, seed=1)
    ours = figures.correlate(image, kernel)
    np.testing.assert_allclose(ours, signal.correlate2d(image, kernel, "valid"), **CLOSE)
    turned = kernel[::-1, ::-1]
    np.testing.assert_allclose(ours, signal.convolve2d(image, turned, "valid"), **CLOSE)
    assert not np.allclose(ours, signal.convolve2d(image, kernel, "valid"))
    first, second = normal(3, 3), normal(3, 3, seed=1)  # two in a row are one of 5 x 5
    in_a_row = figures.correlate(figures.correlate(image, first), second)
    together = figures.correlate(image, signal.convolve2d(first, second))
    np.testing.assert_allclose(in_a_row, together, **CLOSE)


def test_the_sum_written_under_the_figure():
    row, column = figures.WINDOW
    window = figures.STROKE[row : row + 3, column : column + 3]
    assert (window[:, 2].tolist(), window[:, 0].tolist()) == ([7, 8, 9], [0, 0, 1])
    answers = figures.correlate(figures.STROKE, figures.EDGE)
    assert answers[row, column] == 7 + 8 + 9 - (0 + 0 + 1) == 23
    assert (answers[:, :2] > 0).all()  # left edge of the stroke
    assert (answers[:, 2:] < 0).all()  # right edge


def test_kernels_do_what_their_names_say():
    image, kernels = figures.photograph(), figures.KERNELS
    even = np.full((9, 9), 0.7)
    for name in ("upright edges", "level edges"):
        np.testing.assert_allclose(figures.correlate(even, kernels[name]), 0, atol=1e-6)
    np.testing.assert_allclose(figures.correlate(even, kernels["sharper"]), 0.7, rtol=1e-5)
    blurred = figures.correlate(image, kernels["mean of 5 x 5"])
    sharper = figures.correlate(image, kernels["sharper"])
    assert blurred.std() < image.std() < sharper.std()


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 6])
def test_sizes_and_zeros(kernel):
    weights = normal(kernel, kernel, 1, 1)
    for size, stride in itertools.product((kernel, 8, 9, 12, 13), range(1, 5)):
        padded = {
            padding: figures.tensorflow_size(size, kernel, stride, padding)
            for padding in ("VALID", "SAME", kernel // 2)
        }
        assert padded == {
            "VALID": figures.output_size(size, kernel, stride),
            "SAME": math.ceil(size / stride),
            kernel // 2: figures.output_size(size, kernel, stride, kernel // 2),
        }
        before, after = ends = figures.same_padding(size, kernel, stride)
        assert before <= after <= before + 1
        image = normal(1, size, size, 1, seed=size)
        same = tf.nn.conv2d(image, weights, stride, "SAME")
        by_hand = tf.nn.conv2d(image, weights, stride, [[0, 0], ends, ends, [0, 0]])
        np.testing.assert_allclose(same, by_hand, **CLOSE)


def test_costs_are_keras_counts():
    for size, channels, kernel, filters in ((28, 1, 5, 32), (10, 4, 3, 6)):
        convolution = tf.keras.layers.Conv2D(filters, kernel, use_bias=False)
        image = tf.zeros([1, size, size, channels])
        output = convolution(image).shape[1:]
        weights, multiply_adds, dense = figures.costs(image.shape[1:], kernel, output)
        assert weights == convolution.count_params()
        assert multiply_adds == output[0] * output[1] * weights
        assert dense == image.shape.num_elements() * output.num_elements()
    counted = [figures.costs(*layer)[0] for _, *layer in figures.LAYERS]
    shapes = [kernel.shape for kernel in example05.Network(tf.float32, seed=0).kernels[:3]]
    published = vgg16.Config().shapes()
    shapes += [published[f"vgg_16/{x[:5]}/{x}/weights"] for x in ("conv1_1", "conv5_3")]
    assert counted == [math.prod(shape) for shape in shapes]
    assert published["vgg_16/fc6/weights"] == (7, 7, 512, 4096)  # a kernel as large as its input


@pytest.mark.slow
def test_what_is_at_the_end_decides_what_a_move_does():
    for seed in (0, 1):
        moved = figures.accuracies_when_moved(seed)
        dense, flat, pooled = (np.array(moved[name]) for name in moved)
        ends, middle = [0, -1], len(figures.MOVES) // 2
        assert min(dense[middle], flat[middle], pooled[middle]) > 0.75  # all have learned
        assert (dense[ends] < 0.3).all()
        assert (flat[ends] < 0.3).all()
        assert (pooled[ends] > pooled[middle] - 0.03).all()  # four pixels are one step
        assert (pooled > pooled[middle] - 0.1).all()  # a little worse between, at most


def test_formula_is_what_gradients_show():
    rng = np.random.default_rng(0)
    for _ in range(6):
        layers = [("conv", *rng.integers([1, 1], [6, 4]).tolist()) for _ in range(3)]
        layers = [(kind, max(kernel, stride), stride) for kind, kernel, stride in layers]
        assert figures.measured_field(layers) == figures.receptive_field(layers)[0]


def test_receptive_field_of_the_real_vgg16():
    """The unit in the middle of pool5, of models/vgg16.py with positive weights of small width."""
    config = vgg16.Config(classes=2, width=1, dense=1)
    weights = {name: np.full(shape, 0.1, np.float32) for name, shape in config.shapes().items()}
    network = vgg16.VGG16(weights, config)
    images = tf.constant(np.random.default_rng(0).random((8, 320, 320, 3), np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        pool5 = vgg16.pool(network.block(5, network.lower_blocks(images)))
        unit = pool5[:, 5, 5]
    rows = np.flatnonzero(np.any(tape.gradient(unit, images).numpy() != 0, axis=(0, 2, 3)))
    field, jump = figures.receptive_field(figures.VGG16)
    assert (rows[-1] - rows[0] + 1, jump) == (field, 320 // 10) == (212, 32)


def test_effective_field_grows_with_the_root_of_the_depth():
    for depth in (8, 32):
        shares = figures.influence(depth, networks=8)
        side = figures.effective_side(shares)
        assert 3.7 * math.sqrt(depth) == pytest.approx(side, abs=2)
        deviation = math.sqrt(shares.sum(axis=0) @ np.arange(-depth, depth + 1) ** 2)
        assert deviation == pytest.approx(math.sqrt(2 * depth / 3), rel=0.1)
    assert side < 65 / 2  # half of the receptive field
