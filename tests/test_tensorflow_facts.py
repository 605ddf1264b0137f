"""What the notes say of TensorFlow and Keras that another version may do otherwise, and the listing
of note 10 that works around one such thing.

Where one of these fails after an upgrade, the note named beside it is wrong.
"""

import h5py
import notes
import numpy as np
import pytest
import tensorflow as tf


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_overflow_and_the_logits_behind_a_softmax_layer():
    """Note 3: float32 overflows between 88 and 89, and powers are 0 from -90 on, in TensorFlow."""
    assert np.isinf(tf.exp([88.0, 89.0])).tolist() == [False, True]
    assert (tf.exp([-87.0, -90.0]).numpy() == 0).tolist() == [False, True]
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Activation("softmax")])
    model.compile(loss="categorical_crossentropy")
    same(model.evaluate(np.float32([[0, 100]]), np.float32([[1, 0]]), verbose=0), 100)


def test_which_variance_batch_normalisation_keeps():
    """Note 5: the unbiased one in compat.v1, the other one in Keras; none if not trainable."""
    x = np.random.default_rng(0).standard_normal((10, 1, 1, 4), np.float32)
    mean, biased = tf.nn.moments(x, [0, 1, 2])
    y, _, kept = tf.compat.v1.nn.fused_batch_norm(x, tf.ones(4), tf.zeros(4), epsilon=1e-5)
    same(y, (x - mean) * tf.math.rsqrt(biased + 1e-5))
    same(kept, biased * 10 / 9)
    layer = tf.keras.layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    same(layer.moving_variance, biased)
    layer.trainable = False
    same(layer(x, training=True), layer(x, training=False))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_weight_decay_shrinks_by_rate_times_decay(name):
    """Note 5: apart from the gradient, which is 0 here."""
    weights = np.float32([3, -0.5, 0.01])
    variable = tf.Variable(weights)
    optimizer = getattr(tf.keras.optimizers, name)(0.1, weight_decay=0.2)
    optimizer.apply_gradients([(tf.zeros(3), variable)])
    same(variable, (1 - 0.1 * 0.2) * weights)


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


@pytest.mark.parametrize(
    ("trainable", "new_top", "averages_kept", "weights_kept"),
    [
        (False, functional, True, True),
        (True, functional, False, False),  # the trap
        (True, not_in_training, False, False),  # Keras 3 overrules training=False
        (True, OwnCall, True, False),
        ("the note's listing", functional, True, False),
    ],
)
def test_batch_normalisation_while_fine_tuning(trainable, new_top, averages_kept, weights_kept):
    tf.keras.utils.set_random_seed(0)
    dense, norm = tf.keras.layers.Dense(4), tf.keras.layers.BatchNormalization()
    base = tf.keras.Sequential([tf.keras.Input([5]), dense, norm])
    network = new_top(base)
    if trainable == "the note's listing":
        notes.run_listings(10)["thaw"](base)
    else:
        base.trainable = trainable
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(tf.keras.optimizers.SGD(0.1), loss)
    watched = [norm.moving_mean, norm.moving_variance, dense.kernel]
    before = [variable.numpy() for variable in watched]
    x = np.random.default_rng(0).normal(3, 2, (32, 5)).astype(np.float32)
    network.fit(x, np.arange(32) % 3, batch_size=8, verbose=0)
    same = [np.array_equal(old, new.numpy()) for old, new in zip(before, watched, strict=True)]
    assert same == [averages_kept, averages_kept, weights_kept]
