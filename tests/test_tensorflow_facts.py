"""What the notes say of TensorFlow, Keras and NumPy themselves: no code of this project is tested.

Where one of these fails, a new version behaves otherwise, and the note named beside it is wrong.
"""

import itertools

import h5py
import notes
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm


def normal(*shape, seed=0, spread=1):
    return spread * np.random.default_rng(seed).standard_normal(shape, np.float32)


def gradient(function, *inputs):
    """Return the derivatives of the sum of function(*inputs), one for each input."""
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(function(*inputs))
    return tape.gradient(total, inputs)


# --- Note 2: activation functions -----------------------------------------------------------------

X = np.linspace(-6, 6, 1000)  # without 0
S, UP, DENSITY = 1 / (1 + np.exp(-X)), norm.cdf(X), norm.pdf(X)
ACTIVATIONS = {  # the rows of the page's first table: function and derivative
    "sigmoid": (tf.sigmoid, S, S * (1 - S)),
    "tanh": (tf.tanh, 2 / (1 + np.exp(-2 * X)) - 1, 1 - np.tanh(X) ** 2),
    "ReLU": (tf.nn.relu, np.maximum(0, X), X > 0),
    "leaky ReLU": (tf.nn.leaky_relu, np.where(X > 0, X, 0.2 * X), np.where(X > 0, 1, 0.2)),
    "ELU": (tf.nn.elu, np.where(X > 0, X, np.exp(X) - 1), np.where(X > 0, 1, np.exp(X))),
    "GELU": (tf.nn.gelu, X * UP, UP + X * DENSITY),
    "SiLU": (tf.nn.silu, X * S, S * (1 + X * (1 - S))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_functions_and_their_derivatives(name):
    function, value, slope = ACTIVATIONS[name]
    np.testing.assert_allclose(function(X), value, atol=1e-7)
    np.testing.assert_allclose(gradient(function, X)[0], slope, atol=1e-7)


# --- Formulas: what was found, and what the note says it is ---------------------------------------


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


LOGITS, TARGETS = normal(20, 10, spread=3), np.eye(10, dtype=np.float32)[np.arange(20) % 10]
WEIGHTS, GRADIENT = np.float32([3, -0.5, 0.01]), np.float32([0.2, -0.1, 0.3])


def test_softmax_and_cross_entropy():
    """Note 3."""
    powers = np.exp(LOGITS)
    same(tf.nn.softmax(LOGITS + 7), powers / powers.sum(axis=1, keepdims=True))
    two = tf.nn.softmax(LOGITS[:, :2])[:, 1]
    same(two, tf.sigmoid(LOGITS[:, 1] - LOGITS[:, 0]))

    z, t = np.linspace(-30, 30, 50), np.arange(50) % 2.0

    def binary(z):
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=t, logits=z)

    same(binary(z), np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))))
    same(gradient(binary, z)[0], tf.sigmoid(z) - t)
    # float32 overflows between 88 and 89, and powers are 0 from -90 on, in TensorFlow
    assert np.isinf(tf.exp([88.0, 89.0])).tolist() == [False, True]
    assert (tf.exp([-87.0, -90.0]).numpy() == 0).tolist() == [False, True]
    # Keras finds the logits behind a softmax layer
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Activation("softmax")])
    model.compile(loss="categorical_crossentropy")
    same(model.evaluate(np.float32([[0, 100]]), np.float32([[1, 0]]), verbose=0), 100)
    # its squared error is a mean over the classes, too, and a label smoothing of 0.2 asks for 0.82
    squares = np.mean(np.sum((TARGETS - LOGITS) ** 2, axis=1))
    same(tf.keras.losses.MeanSquaredError()(TARGETS, LOGITS), squares / 10)
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    smoothed = 0.8 * TARGETS + 0.02
    by_hand = tf.nn.softmax_cross_entropy_with_logits(smoothed, LOGITS)
    same(loss(TARGETS, LOGITS), tf.reduce_mean(by_hand))
    assert smoothed.max() == pytest.approx(0.82)


def test_tapes_and_forward_mode():
    """Note 4."""
    x = tf.constant(WEIGHTS)
    with tf.autodiff.ForwardAccumulator(x, tf.constant(GRADIENT)) as accumulator:
        forward = accumulator.jvp(tf.reduce_sum(tf.tanh(x)))
    same(forward, np.sum(gradient(tf.tanh, WEIGHTS)[0] * GRADIENT))
    constant, variable, other = tf.constant(2.0), tf.Variable(3.0), tf.Variable(4.0)
    with tf.GradientTape() as tape:
        product = constant * variable
    assert tape.gradient(product, [constant, variable, other]) == [None, 2.0, None]


def test_which_variance_batch_normalisation_keeps():
    """Note 5: the unbiased one in compat.v1, the other one in Keras; none if not trainable."""
    x = normal(10, 1, 1, 4)
    mean, biased = tf.nn.moments(x, [0, 1, 2])
    y, _, kept = tf.compat.v1.nn.fused_batch_norm(x, tf.ones(4), tf.zeros(4), epsilon=1e-5)
    same(y, (x - mean) * tf.math.rsqrt(biased + 1e-5))
    same(kept, biased * 10 / 9)
    layer = tf.keras.layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    same(layer.moving_variance, biased)
    layer.trainable = False
    same(layer(x, training=True), layer(x, training=False))


def step_of(optimizer, gradient):
    variable = tf.Variable(WEIGHTS)
    optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    return variable


def test_weight_decay_and_penalties():
    """Note 5: weight decay is L2 for plain gradient descent, and not for Adam."""
    optimizers, regularizers = tf.keras.optimizers, tf.keras.regularizers
    expected = (1 - 0.1 * 0.02) * WEIGHTS - 0.1 * GRADIENT
    same(step_of(optimizers.SGD(0.1), GRADIENT + 0.02 * WEIGHTS), expected)
    same(step_of(optimizers.SGD(0.1, weight_decay=0.02), GRADIENT), expected)
    for strength in (0.02, 0.2):
        by_penalty = step_of(optimizers.Adam(0.1, epsilon=1e-12), strength * WEIGHTS)
        same(WEIGHTS - by_penalty, 0.1 * np.sign(WEIGHTS))  # of one length, however strong
        decayed = step_of(optimizers.AdamW(0.1, weight_decay=strength), 0 * WEIGHTS)
        same(decayed, (1 - 0.1 * strength) * WEIGHTS)
    same(regularizers.L2(0.5)(tf.constant(WEIGHTS)), 0.5 * np.sum(WEIGHTS**2))  # no 1/2 in it
    variable, seen = tf.Variable([0.005]), []
    for _ in range(20):  # the gradient of L1 makes no zeros
        with tf.GradientTape() as tape:
            loss = regularizers.L1(0.1)(variable)
        variable.assign_sub(0.1 * tape.gradient(loss, variable))
        seen.append(float(variable[0]))
    assert 0 not in seen and min(seen) < 0 < max(seen)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients(stride):
    """Note 6."""
    images, kernel, full = normal(2, 9, 8, 3), normal(3, 2, 3, 5, seed=1), normal(9, 8, 3, 6)

    def convolve(images, kernel):
        return tf.nn.conv2d(images, kernel, stride, "VALID")

    places = images[:, ::stride, ::stride]
    same(convolve(images, kernel[:1, :1]), places @ kernel[0, 0])  # 1 x 1: a dense layer
    same(convolve(images, full)[:, 0, 0], images.reshape(2, -1) @ full.reshape(-1, 6))
    # moving the image by the stride moves the answers by one
    same(convolve(images[:, stride:], kernel), convolve(images, kernel)[:, 1:])
    # derivatives: a transposed convolution, and a correlation of input and upstream gradient, in
    # which images take the part of channels and the stride that of the dilation
    upstream = normal(*convolve(images, kernel).shape, seed=2)
    of_x, of_kernel = gradient(lambda x, k: upstream * convolve(x, k), images, kernel)
    same(of_x, tf.nn.conv2d_transpose(upstream, kernel, images.shape, stride, "VALID"))
    turned = tf.transpose(images, [3, 1, 2, 0]), tf.transpose(upstream, [1, 2, 0, 3])
    correlation = tf.nn.conv2d(*turned, 1, "VALID", dilations=stride)
    same(of_kernel, tf.transpose(correlation, [1, 2, 0, 3])[:3, :2])


def test_padding_and_pooling():
    """Note 6."""
    row = tf.nn.conv1d(tf.ones([1, 5, 1]), np.float32([[[1]], [[2]], [[1]]]), 1, "SAME")
    same(row[0, :, 0], [3, 4, 4, 4, 3])  # zeros tell where the border is
    images, mean = normal(2, 6, 6, 3), np.zeros((2, 2, 3, 3), np.float32)
    mean[:, :, range(3), range(3)] = 1 / 4
    same(tf.nn.avg_pool2d(images, 2, 2, "VALID"), tf.nn.conv2d(images, mean, 2, "VALID"))
    for pool in (tf.nn.max_pool2d, tf.nn.avg_pool2d):  # zeros neither win nor count
        same(pool(-tf.ones([1, 3, 3, 1]), 2, 2, "SAME"), -np.ones([1, 2, 2, 1]))
    for kernel, size, stride in itertools.product((3, 5, 7), (8, 9, 12, 13), (1, 2)):
        weights, ends = normal(kernel, kernel, 1, 1), [kernel // 2] * 2
        image = normal(1, size, size, 1, seed=size)
        padded = tf.nn.conv2d(image, weights, stride, "SAME")
        symmetric = tf.nn.conv2d(image, weights, stride, [[0, 0], ends, ends, [0, 0]])
        assert np.allclose(padded, symmetric, atol=1e-5) == (stride == 1 or size % 2 == 1)


def test_only_the_forget_gate_of_keras_lstm_begins_with_a_bias_and_it_is_the_second():
    """Note 8."""
    layer = tf.keras.layers.LSTM(3)
    layer.build([None, None, 2])
    assert layer.get_weights()[2].tolist() == [0] * 3 + [1] * 3 + [0] * 6


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_is_inverted(rate):
    x = np.random.default_rng(0).uniform(1, 2, (400, 500)).astype(np.float32)
    dropped = tf.nn.dropout(x, rate, seed=1).numpy()
    kept = dropped != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    np.testing.assert_allclose(dropped[kept], (x / (1 - rate))[kept], rtol=1e-6)
    layer = tf.keras.layers.Dropout(rate)
    np.testing.assert_array_equal(layer(x), x)  # at inference nothing is multiplied


@pytest.mark.parametrize(
    ("dtype", "weight", "step"),
    [
        ("float16", 1, 0.4 * 2**-10),  # less than half a step to the next number
        ("bfloat16", 1, 0.4 * 2**-7),
        ("bfloat16", 0.02, 2e-5),  # a weight of example 11 at its rate of fine-tuning
    ],
)
def test_small_updates_are_lost_in_16_bits(dtype, weight, step):
    weight, step = tf.constant(weight, tf.float32), tf.constant(step)
    assert weight + step > weight
    assert tf.cast(weight, dtype) + tf.cast(step, dtype) == tf.cast(weight, dtype)


def test_hdf5_can_take_an_array_from_another_file_and_keras_refuses_it(tmp_path):
    network = tf.keras.Sequential([tf.keras.Input([3]), tf.keras.layers.Dense(4)])
    path, other, place = tmp_path / "model.weights.h5", tmp_path / "other", "layers/dense/vars/1"
    other.write_bytes(bytes(range(16)))
    network.save_weights(path)
    with h5py.File(path, "a") as file:
        del file[place]
        file.create_dataset(place, [4], "<f4", external=[(str(other), 0, 16)])
    with h5py.File(path) as file:
        assert file[place][()].tobytes() == other.read_bytes()
    with pytest.raises(ValueError, match="external"):
        network.load_weights(path)


# --- Note 10: batch normalisation while fine-tuning -----------------------------------------------


class OwnCall(tf.keras.Model):
    """A new top layer in a `call` method of one's own."""

    def __init__(self, base):
        super().__init__()
        self.base, self.top = base, tf.keras.layers.Dense(3)

    def call(self, inputs):
        return self.top(self.base(inputs, training=False))


def functional(base, **training):
    inputs = tf.keras.Input(base.input_shape[1:])
    return tf.keras.Model(inputs, tf.keras.layers.Dense(3)(base(inputs, **training)))


def not_in_training(base):
    return functional(base, training=False)


def freeze_all(base):
    base.trainable = False


def thaw_all(base):
    base.trainable = True


@pytest.mark.parametrize(
    ("prepare", "new_top", "averages_kept", "weights_kept"),
    [
        (freeze_all, functional, True, True),
        (thaw_all, functional, False, False),  # the trap
        (thaw_all, not_in_training, False, False),  # Keras 3 overrules training=False
        (thaw_all, OwnCall, True, False),
        (notes.run_listings(10)["thaw"], functional, True, False),  # the note's listing
    ],
)
def test_batch_normalisation_while_fine_tuning(prepare, new_top, averages_kept, weights_kept):
    tf.keras.utils.set_random_seed(0)
    dense, norm = tf.keras.layers.Dense(4), tf.keras.layers.BatchNormalization()
    base = tf.keras.Sequential([tf.keras.Input([5]), dense, norm])
    network = new_top(base)
    prepare(base)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(tf.keras.optimizers.SGD(0.1), loss)
    watched = [norm.moving_mean, norm.moving_variance, dense.kernel]
    before = [variable.numpy() for variable in watched]
    x = np.random.default_rng(0).normal(3, 2, (32, 5)).astype(np.float32)
    network.fit(x, np.arange(32) % 3, batch_size=8, verbose=0)
    same = [np.array_equal(old, new.numpy()) for old, new in zip(before, watched, strict=True)]
    assert same == [averages_kept, averages_kept, weights_kept]
