"""Checks what note 6 says: its formulas against TensorFlow and SciPy, its listing, its tables, and
its measurements.
"""

import itertools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from examples import example05_mnist_cnn_nn as example05  # noqa: E402
from examples import example12_npz_weights as example12  # noqa: E402
from examples.common import tf  # noqa: E402
from models import vgg16  # noqa: E402

figures = programs.figures("convolution")
NOTE = (ROOT / "docs" / "notes" / "06_convolution.md").read_text()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def explicit(before, after):
    return [[0, 0], [before, after], [before, after], [0, 0]]


@pytest.fixture(scope="module")
def listing():
    (code,) = re.findall(r"```python\n(.*?)```", NOTE, re.DOTALL)
    names = {}
    exec(code, names)
    return names["convolution"]


# --- What a convolution is ------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_listing_computes_what_tensorflow_computes(listing, stride):
    image, kernel = normal(9, 8, 3), normal(4, 3, 3, 5, seed=1)
    expected = tf.nn.conv2d(image[None], kernel, stride, "VALID")[0]
    np.testing.assert_allclose(listing(image, kernel, stride), expected, rtol=1e-4, atol=1e-5)


def test_it_is_a_correlation_and_the_turned_kernel_makes_a_convolution_of_it():
    image, kernel = normal(9, 8), normal(3, 4, seed=1)
    turned = kernel[::-1, ::-1]
    ours = figures.correlate(image, kernel)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(ours, signal.correlate2d(image, kernel, "valid"), **close)
    np.testing.assert_allclose(ours, signal.convolve2d(image, turned, "valid"), **close)
    assert not np.allclose(ours, signal.convolve2d(image, kernel, "valid"))


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
    # the photograph plus its differences from its four neighbours
    inner = image[1:-1, 1:-1]
    neighbours = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    np.testing.assert_allclose(sharper, inner + (4 * inner - neighbours), atol=1e-4)


def test_one_by_one_is_a_dense_layer_at_every_place_and_a_kernel_of_full_size_is_one():
    images, kernel = normal(2, 4, 5, 3), normal(1, 1, 3, 6, seed=1)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        tf.nn.conv2d(images, kernel, 1, "VALID"), images @ kernel[0, 0], **close
    )
    full = normal(4, 5, 3, 6, seed=2)
    np.testing.assert_allclose(
        tf.nn.conv2d(images, full, 1, "VALID")[:, 0, 0],
        images.reshape(2, -1) @ full.reshape(-1, 6),
        **close,
    )
    assert vgg16.Config().shapes()["vgg_16/fc6/weights"] == (7, 7, 512, 4096)


def test_dense_layer_does_not_know_neighbours():
    pixels, matrix = normal(5, 784), normal(784, 10, seed=1)
    shuffled = np.random.default_rng(2).permutation(784)
    np.testing.assert_allclose(
        pixels @ matrix, pixels[:, shuffled] @ matrix[shuffled], rtol=1e-3, atol=1e-3
    )


# --- Sizes and padding ----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", range(1, 8))
def test_sizes(kernel):
    for size, stride in itertools.product(range(kernel, 24), range(1, 5)):
        valid = figures.tensorflow_size(size, kernel, stride, "VALID")
        assert valid == figures.output_size(size, kernel, stride)
        assert valid == math.ceil((size - kernel + 1) / stride)
        same = figures.tensorflow_size(size, kernel, stride, "SAME")
        assert same == math.ceil(size / stride)
        assert (same == size) == (stride == 1 or size == 1)
        padding = kernel // 2
        assert figures.tensorflow_size(size, kernel, stride, padding) == figures.output_size(
            size, kernel, stride, padding
        )


@pytest.mark.parametrize("kernel", range(1, 8))
def test_zeros_of_same_padding(kernel):
    weights = normal(kernel, kernel, 1, 1)
    for size, stride in itertools.product((5, 8, 9, 12), range(1, 5)):
        before, after = figures.same_padding(size, kernel, stride)
        assert before <= after <= before + 1
        image = normal(1, size, size, 1, seed=size)
        np.testing.assert_allclose(
            tf.nn.conv2d(image, weights, stride, "SAME"),
            tf.nn.conv2d(image, weights, stride, explicit(before, after)),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_same_and_symmetric_padding_differ_for_stride_2_and_even_sizes_only(kernel):
    weights, padding = normal(kernel, kernel, 1, 1), kernel // 2
    for size, stride in itertools.product((8, 9, 12, 13), (1, 2)):
        image = normal(1, size, size, 1, seed=size)
        same = tf.nn.conv2d(image, weights, stride, "SAME")
        symmetric = tf.nn.conv2d(image, weights, stride, explicit(padding, padding))
        assert same.shape == symmetric.shape
        assert np.allclose(same, symmetric, atol=1e-5) == (stride == 1 or size % 2 == 1)
        if stride == 2 and size % 2 == 0:  # windows that are a pixel apart
            moved = tf.nn.conv2d(image[:, 1:, 1:], weights, 2, explicit(padding, padding))
            inside = slice(kernel // 2, -kernel // 2)
            np.testing.assert_allclose(
                same[:, inside, inside], moved[:, inside, inside], rtol=1e-3, atol=1e-4
            )


def test_example05_never_looks_at_the_last_row_and_column():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    network = example05.Network(tf.float32, seed=0)
    logits = network(images).numpy()
    for place, matters in ((27, False), (26, True)):
        for line in (np.s_[:, place], np.s_[:, :, place]):
            changed = images.copy()
            changed[line] = 255 - changed[line]
            assert np.array_equal(network(changed), logits) == (not matters)


def test_dilation_covers_more_without_more_weights():
    for kernel, dilation in itertools.product((2, 3, 5), (1, 2, 3)):
        image, weights = tf.zeros([1, 20, 20, 1]), tf.zeros([kernel, kernel, 1, 1])
        covered = dilation * (kernel - 1) + 1
        output = tf.nn.conv2d(image, weights, 1, "VALID", dilations=dilation)
        assert output.shape[1] == figures.output_size(20, covered)


# --- Weights and work -----------------------------------------------------------------------------


def test_costs_are_keras_counts():
    for size, channels, kernel, filters in ((28, 1, 5, 32), (10, 4, 3, 6)):
        layers = tf.keras.layers
        convolution = layers.Conv2D(filters, kernel)
        image = tf.zeros([1, size, size, channels])
        output = convolution(image).shape[1:]
        weights, multiply_adds, dense = figures.costs(image.shape[1:], kernel, output)
        assert convolution.count_params() == weights + filters
        larger = layers.Conv2D(filters, kernel)
        larger(tf.zeros([1, 2 * size, size, channels]))  # the image's size does not matter
        assert larger.count_params() == convolution.count_params()
        assert multiply_adds == output[0] * output[1] * weights
        assert dense == image.shape.num_elements() * output.num_elements()
    network = example05.Network(tf.float32, seed=0)
    counted = {where: figures.costs(*layer)[0] for where, *layer in figures.LAYERS}
    assert counted["example 05, first"] == tf.size(network.kernels[0])
    assert counted["example 05, second"] == tf.size(network.kernels[1])
    assert counted["example 05, third"] == tf.size(network.kernels[2])
    shapes = vgg16.Config().shapes()
    for name in ("conv1_1", "conv5_3"):
        shape = shapes[f"vgg_16/{name[:5]}/{name}/weights"]
        assert counted[f"VGG16, {name}"] == math.prod(shape)


def test_two_small_kernels_without_a_relu_are_one_of_5_x_5():
    first, second = normal(3, 3), normal(3, 3, seed=1)
    image = normal(12, 12, seed=2)
    in_a_row = figures.correlate(figures.correlate(image, first), second)
    together = signal.convolve2d(first, second)
    assert together.shape == (5, 5)
    np.testing.assert_allclose(in_a_row, figures.correlate(image, together), rtol=1e-3, atol=1e-3)


# --- Moving the image -----------------------------------------------------------------------------


def test_convolution_is_equivariant_to_multiples_of_its_stride():
    image, kernel = normal(1, 20, 20, 1), normal(3, 3, 1, 4, seed=1)
    for stride, move in itertools.product((1, 2, 3), range(1, 7)):
        still = tf.nn.conv2d(image, kernel, stride, "VALID")
        moved = tf.nn.conv2d(image[:, move:], kernel, stride, "VALID")
        steps = move // stride
        rows = min(moved.shape[1], still.shape[1] - steps)
        same = np.allclose(moved[:, :rows], still[:, steps : steps + rows], atol=1e-4)
        assert same == (move % stride == 0)


def test_table_of_moves_shows_what_the_note_says():
    still, by_one, by_two = (np.roll(figures.SIGNAL, move) for move in range(3))
    slide = figures.slide
    assert slide(by_one, (1, 2, 1)).tolist() == np.roll(slide(still, (1, 2, 1)), 1).tolist()
    strided = [slide(row, (1, 2, 1), 2) for row in (still, by_one, by_two)]
    assert strided[2].tolist() == np.roll(strided[0], 1).tolist()
    assert sorted(strided[1]) != sorted(strided[0])
    assert strided[1].max() != strided[0].max()
    assert np.array_equal(strided[0], tf.nn.conv1d(  # the stride is TensorFlow's
        np.float32(still)[None, :, None], np.float32([1, 2, 1])[:, None, None], 2, "VALID"
    )[0, :, 0])  # fmt: skip


def test_zeros_at_the_border_tell_where_it_is():
    even = tf.nn.conv1d(tf.ones([1, 5, 1]), np.float32([1, 2, 1])[:, None, None], 1, "SAME")
    assert even[0, :, 0].numpy().tolist() == [3, 4, 4, 4, 3]


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


# --- Receptive fields -----------------------------------------------------------------------------


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
        steps = np.arange(-depth, depth + 1)
        deviation = math.sqrt(shares.sum(axis=0) @ steps**2)
        assert deviation == pytest.approx(math.sqrt(2 * depth / 3), rel=0.1)
    assert side < 65 / 2  # half of the receptive field


# --- Pooling --------------------------------------------------------------------------------------


def test_pooling():
    images = normal(2, 6, 6, 3)
    mean = np.zeros((2, 2, 3, 3), np.float32)
    mean[:, :, range(3), range(3)] = 1 / 4
    np.testing.assert_allclose(
        tf.nn.avg_pool2d(images, 2, 2, "VALID"),
        tf.nn.conv2d(images, mean, 2, "VALID"),
        rtol=1e-4,
        atol=1e-5,
    )
    for layer in (tf.keras.layers.MaxPooling2D(), tf.keras.layers.AveragePooling2D(2)):
        layer(images)
        assert layer.count_params() == 0
    # zeros of the padding neither win nor count
    below = -np.ones([1, 3, 3, 1], np.float32)
    for pool in (tf.nn.max_pool2d, tf.nn.avg_pool2d):
        np.testing.assert_array_equal(pool(below, 2, 2, "SAME"), -np.ones([1, 2, 2, 1]))


# --- Forward and backward -------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_as_a_matrix_product(stride):
    images, kernel = normal(2, 9, 8, 3), normal(3, 2, 3, 5, seed=1)
    windows = tf.image.extract_patches(
        images, [1, 3, 2, 1], [1, stride, stride, 1], [1] * 4, "VALID"
    )
    product = windows.numpy() @ kernel.reshape(-1, 5)  # (N, H', W', 18) @ (18, 5)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(tf.nn.conv2d(images, kernel, stride, "VALID"), product, **close)
    np.testing.assert_allclose(
        example12.convolution(images, kernel, np.zeros(5), stride), product, **close
    )


def test_gradients_of_a_convolution():
    x, kernel = tf.constant(normal(2, 9, 8, 3)), tf.constant(normal(3, 2, 3, 5, seed=1))
    close = {"rtol": 1e-3, "atol": 1e-4}
    for stride in (1, 2):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.conv2d(x, kernel, stride, "VALID")
            upstream = tf.constant(normal(*y.shape, seed=2))
            total = tf.reduce_sum(y * upstream)
        of_x, of_kernel = tape.gradient(total, [x, kernel])
        transposed = tf.nn.conv2d_transpose(upstream, kernel, x.shape, stride, "VALID")
        np.testing.assert_allclose(of_x, transposed, **close)
        # the correlation of input and gradient: images take the part of channels
        correlation = tf.nn.conv2d(
            tf.transpose(x, [3, 1, 2, 0]),
            tf.transpose(upstream, [1, 2, 0, 3]),
            1,
            "VALID",
            dilations=stride,
        )
        correlation = tf.transpose(correlation, [1, 2, 0, 3])[:3, :2]
        np.testing.assert_allclose(of_kernel, correlation, **close)


# --- Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["costs", "sizes", "moves", "fields"])
def test_tables_are_what_the_script_makes_now(name):
    path = ROOT / "docs" / "notes" / "_generated" / f"convolution_{name}.md"
    _, _, text = path.read_text().partition("-->")
    assert text.strip() == getattr(figures, f"{name}_table")()
    assert f"_generated/{path.name}" in NOTE
