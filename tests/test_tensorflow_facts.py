"""What the notes say of TensorFlow, Keras and NumPy themselves: no code of this project is tested.

Where one of these fails, a new version behaves otherwise, and the note named beside it is wrong.
"""

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


# --- One formula each -----------------------------------------------------------------------------
# Each function returns what was found and what the note says it is.

LOGITS = normal(20, 10, spread=3)
TARGETS = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
Z, YES = np.linspace(-30, 30, 50), np.arange(50) % 2.0
IMAGES, KERNEL = normal(2, 9, 8, 3), normal(3, 2, 3, 5, seed=1)
WEIGHTS, GRADIENT = np.float32([3, -0.5, 0.01]), np.float32([0.2, -0.1, 0.3])


def binary_cross_entropy(labels, logits):
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)


def keras_loss_of_a_softmax_layer():
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Activation("softmax")])
    model.compile(loss="categorical_crossentropy")
    return model.evaluate(np.float32([[0, 100]]), np.float32([[1, 0]]), verbose=0)


def gradients_of_a_convolution(stride):
    return gradient(
        lambda x, kernel: UPSTREAM[stride] * convolve(x, kernel, stride), IMAGES, KERNEL
    )


def convolve(images, kernel, stride=1, padding="VALID"):
    return tf.nn.conv2d(images, kernel, stride, padding)


UPSTREAM = {stride: normal(*convolve(IMAGES, KERNEL, stride).shape, seed=2) for stride in (1, 2)}


def correlation_with_the_gradient(stride):
    """The images take the part of the channels, and the stride that of the dilation."""
    images = tf.transpose(IMAGES, [3, 1, 2, 0])
    kernel = tf.transpose(UPSTREAM[stride], [1, 2, 0, 3])
    found = tf.nn.conv2d(images, kernel, 1, "VALID", dilations=stride)
    return tf.transpose(found, [1, 2, 0, 3])[:3, :2]


def averaging(channels):
    kernel = np.zeros((2, 2, channels, channels), np.float32)
    kernel[:, :, range(channels), range(channels)] = 1 / 4
    return kernel


def step_of(optimizer, gradient):
    variable = tf.Variable(WEIGHTS)
    optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    return variable


def moving_variance_of_keras(x):
    layer = tf.keras.layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    return layer.moving_variance


def biases_of_a_new_lstm(units):
    layer = tf.keras.layers.LSTM(units)
    layer.build([None, None, 2])
    return layer.get_weights()[2]


def jacobian_vector_product(function, x, direction):
    x = tf.constant(x)
    with tf.autodiff.ForwardAccumulator(x, tf.constant(direction)) as accumulator:
        return accumulator.jvp(function(x))


SGD, Adam, AdamW = (getattr(tf.keras.optimizers, name) for name in ("SGD", "Adam", "AdamW"))
regularizers = tf.keras.regularizers
BATCH = normal(10, 1, 1, 4)
MOMENTS = tf.nn.moments(BATCH, [0, 1, 2])
SMOOTHED = np.float32([[0.02] * 3 + [0.82] + [0.02] * 6])

FORMULAS = {
    # Note 3
    "softmax: only differences of logits count": lambda: (
        tf.nn.softmax(LOGITS + 7),
        np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True),
    ),
    "softmax of two classes is a sigmoid": lambda: (
        tf.nn.softmax(LOGITS[:, :2])[:, 1],
        tf.sigmoid(LOGITS[:, 1] - LOGITS[:, 0]),
    ),
    "binary cross-entropy": lambda: (
        binary_cross_entropy(YES, Z),
        np.maximum(Z, 0) - Z * YES + np.log1p(np.exp(-np.abs(Z))),
    ),
    "binary cross-entropy, derivative": lambda: (
        gradient(lambda z: binary_cross_entropy(YES, z), Z)[0],
        tf.sigmoid(Z) - YES,
    ),
    "Keras finds the logits behind a softmax layer": lambda: (keras_loss_of_a_softmax_layer(), 100),
    "Keras' squared error is a mean over the classes, too": lambda: (
        10 * tf.keras.losses.MeanSquaredError()(TARGETS, LOGITS),
        np.mean(np.sum((TARGETS - LOGITS) ** 2, axis=1)),
    ),
    "float32: the powers of e that overflow, and that are 0": lambda: (
        np.isinf(tf.exp([88.0, 89.0])).tolist() + (tf.exp([-87.0, -90.0]) == 0).numpy().tolist(),
        [False, True] * 2,
    ),
    # Note 4
    "forward mode: the derivative in one direction": lambda: (
        jacobian_vector_product(lambda x: tf.reduce_sum(tf.tanh(x)), WEIGHTS, GRADIENT),
        np.sum(gradient(tf.tanh, WEIGHTS)[0] * GRADIENT),
    ),
    # Note 5
    "label smoothing of 0.2 asks for 0.82": lambda: (
        tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)(
            TARGETS[3:4], LOGITS[:1]
        ),
        tf.nn.softmax_cross_entropy_with_logits(SMOOTHED, LOGITS[:1])[0],
    ),
    "compat.v1's batch normalisation returns the unbiased variance": lambda: (
        tf.compat.v1.nn.fused_batch_norm(BATCH, tf.ones(4), tf.zeros(4), epsilon=1e-5)[::2],
        [(BATCH - MOMENTS[0]) * tf.math.rsqrt(MOMENTS[1] + 1e-5), MOMENTS[1] * 10 / 9],
    ),
    "Keras' batch normalisation keeps the biased variance": lambda: (
        moving_variance_of_keras(BATCH),
        MOMENTS[1],
    ),
    "weight decay is L2 for plain gradient descent": lambda: (
        [
            step_of(SGD(0.1), GRADIENT + 0.02 * WEIGHTS),
            step_of(SGD(0.1, weight_decay=0.02), GRADIENT),
        ],
        [(1 - 0.1 * 0.02) * WEIGHTS - 0.1 * GRADIENT] * 2,
    ),
    "L2 in Adam: a step of one length, however strong": lambda: (
        [WEIGHTS - step_of(Adam(0.1, epsilon=1e-12), s * WEIGHTS) for s in (0.02, 0.2)],
        [0.1 * np.sign(WEIGHTS)] * 2,
    ),
    "weight decay in AdamW": lambda: (
        [step_of(AdamW(0.1, weight_decay=s), 0 * WEIGHTS) for s in (0.02, 0.2)],
        [(1 - 0.1 * s) * WEIGHTS for s in (0.02, 0.2)],
    ),
    "a regularizer of Keras has no 1/2": lambda: (
        regularizers.L2(0.5)(tf.constant(WEIGHTS)),
        0.5 * np.sum(WEIGHTS**2),
    ),
    # Note 6
    "1 x 1: a dense layer at every place": lambda: (
        convolve(IMAGES, KERNEL[:1, :1]),
        IMAGES @ KERNEL[0, 0],
    ),
    "a kernel as large as the image: a dense layer": lambda: (
        convolve(IMAGES, normal(9, 8, 3, 6))[:, 0, 0],
        IMAGES.reshape(2, -1) @ normal(9, 8, 3, 6).reshape(-1, 6),
    ),
    "moving the image by the stride moves the answers by one": lambda: (
        convolve(IMAGES[:, 2:], KERNEL, 2),
        convolve(IMAGES, KERNEL, 2)[:, 1:],
    ),
    "SAME: zeros at the border tell where it is": lambda: (
        tf.nn.conv1d(tf.ones([1, 5, 1]), np.float32([[[1]], [[2]], [[1]]]), 1, "SAME")[0, :, 0],
        np.array([3, 4, 4, 4, 3]),
    ),
    "mean pooling is a convolution": lambda: (
        tf.nn.avg_pool2d(IMAGES, 2, 2, "VALID"),
        convolve(IMAGES, averaging(3), 2),
    ),
    "SAME in pooling: zeros neither win nor count": lambda: (
        [pool(-tf.ones([1, 3, 3, 1]), 2, 2, "SAME") for pool in (tf.nn.max_pool, tf.nn.avg_pool)],
        [-np.ones([1, 2, 2, 1])] * 2,
    ),
    **{
        f"derivatives of a convolution of stride {stride}": lambda stride=stride: (
            gradients_of_a_convolution(stride),
            [
                tf.nn.conv2d_transpose(UPSTREAM[stride], KERNEL, IMAGES.shape, stride, "VALID"),
                correlation_with_the_gradient(stride),
            ],
        )
        for stride in (1, 2)
    },
    # Note 8
    "Keras' LSTM: only the forget gate, the second, begins with a bias": lambda: (
        biases_of_a_new_lstm(3),
        np.repeat([0, 1, 0, 0], 3),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula(name):
    found, expected = FORMULAS[name]()
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


# --- What takes more than a line ------------------------------------------------------------------


def test_the_tape_watches_variables_and_not_constants():
    constant, variable, other = tf.constant(2.0), tf.Variable(3.0), tf.Variable(4.0)
    with tf.GradientTape() as tape:
        product = constant * variable
    assert tape.gradient(product, [constant, variable, other]) == [None, 2.0, None]


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_is_inverted(rate):
    x = np.random.default_rng(0).uniform(1, 2, (400, 500)).astype(np.float32)
    dropped = tf.nn.dropout(x, rate, seed=1).numpy()
    kept = dropped != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    np.testing.assert_allclose(dropped[kept], (x / (1 - rate))[kept], rtol=1e-6)
    layer = tf.keras.layers.Dropout(rate)
    np.testing.assert_array_equal(layer(x), x)  # at inference nothing is multiplied


def test_the_gradient_of_l1_makes_no_zeros():
    penalty, variable, seen = tf.keras.regularizers.L1(0.1), tf.Variable([0.005]), []
    for _ in range(20):
        with tf.GradientTape() as tape:
            loss = penalty(variable)
        variable.assign_sub(0.1 * tape.gradient(loss, variable))
        seen.append(float(variable[0]))
    assert 0 not in seen and min(seen) < 0 < max(seen)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_same_and_symmetric_padding_differ_for_stride_2_and_even_sizes_only(kernel):
    weights, ends = normal(kernel, kernel, 1, 1), [kernel // 2] * 2
    for size in (8, 9, 12, 13):
        for stride in (1, 2):
            image = normal(1, size, size, 1, seed=size)
            same = convolve(image, weights, stride, "SAME")
            symmetric = convolve(image, weights, stride, [[0, 0], ends, ends, [0, 0]])
            assert np.allclose(same, symmetric, atol=1e-5) == (stride == 1 or size % 2 == 1)


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
