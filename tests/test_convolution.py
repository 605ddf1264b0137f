"""Checks models/convolution.py, and the networks of examples 15 to 17 made of it, against Keras."""

import numpy as np
import pytest

from examples import example15_detection_bccd as example15
from examples import example16_segmentation_nuclei as example16
from examples import example17_similarity_omniglot as example17
from examples.helpers.report import tf
from models import convolution, vgg16
from models.normalisation import BatchNormalisation

layers = tf.keras.layers


def filled(network):
    """Give a network's variables values that are neither zero nor one, so that mistakes show."""
    rng = np.random.default_rng(0)
    for variable in network.variables:
        if len(variable.shape) == 1:
            variable.assign(rng.normal(0, 0.5, variable.shape))
        elif not np.any(variable):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    for norm in network.submodules:
        if isinstance(norm, BatchNormalisation):
            norm.moving_variance.assign(rng.uniform(0.5, 2, norm.moving_variance.shape))
    return network


def keras_convolution(ours, x, training):
    """Apply one of our convolutions as Keras' layers, with the same weights."""
    norm = ours.norm
    kernel, moving = ours.kernel.numpy(), [norm.moving_mean.numpy(), norm.moving_variance.numpy()]
    convolution = layers.Conv2D(kernel.shape[-1], 3, padding="same", use_bias=False)
    batch_norm = layers.BatchNormalization(epsilon=norm.epsilon, scale=False)
    convolution.build(x.shape)
    convolution.set_weights([kernel])
    x = convolution(x)
    x = layers.MaxPool2D()(x) if ours.pool else x
    batch_norm.build(x.shape)
    batch_norm.set_weights([norm.offset.numpy(), *moving])
    return layers.ReLU()(batch_norm(x, training=training))


def keras_convolutions(ours, x, training):
    for layer in ours.layers:
        x = keras_convolution(layer, x, training)
    return x


def images(*shape):
    return tf.constant(np.random.default_rng(1).uniform(0, 255, shape), tf.float32)


def equal(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


both = pytest.mark.parametrize("training", [False, True])


@both
def test_two_scales(training):
    ours = filled(convolution.TwoScales(None, tf.float32, seed=0))
    x = images(2, 32, 48, 3)
    near = layers.Lambda(lambda x: tf.nn.space_to_depth(x / 64 - 2, 4))(x)
    expected_near = keras_convolutions(ours.near, near, training)
    far = keras_convolutions(ours.far, expected_near, training)
    far = layers.UpSampling2D(interpolation="nearest")(far)
    joined = layers.Concatenate()([expected_near, far])
    expected = keras_convolutions(ours.both, joined, training)
    equal(ours(x, training), expected)


def test_two_scales_behind_a_network_that_stays_as_it_is():
    """Behind block 4 of any VGG16: here, one with an eighth of the channels."""
    config = vgg16.Config(classes=0, width=8, dense=0)
    network = vgg16.VGG16(vgg16.random_weights(config, 0), config)
    x = images(2, 64, 64, 3)
    ours = filled(convolution.TwoScales(network.block4, tf.float32, seed=0))
    assert len(ours.trainable_variables) == 2 * 5  # kernels and offsets of `far` and `both`
    pool4 = network.lower_blocks(vgg16.preprocess(x, 64))
    block4 = network.block4(x)
    assert block4.shape == (2, 8, 8, 64)
    equal(vgg16.pool(block4), pool4.numpy())
    far = keras_convolutions(ours.far, block4, False)
    joined = layers.Concatenate()([block4, layers.UpSampling2D()(far)])
    equal(ours(x, False), keras_convolutions(ours.both, joined, False))


@both
def test_u_net(training):
    """Each level on the way up sees the same level on the way down, and what is below."""
    ours = filled(example16.UNet(tf.float32, seed=0))
    x = images(2, 32, 48, 3) / 64 - 2
    down, below = [], tf.nn.space_to_depth(x, 2)
    for convolutions in ours.down:
        below = keras_convolutions(convolutions, below, training)
        down.append(below)
    assert [level.shape[1:3] for level in down] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    for number in (2, 1, 0):
        joined = layers.Concatenate()([down[number], layers.UpSampling2D()(below)])
        below = keras_convolutions(ours.up[number], joined, training)
    joined = layers.Concatenate()([x, layers.UpSampling2D()(below)])
    last = keras_convolutions(ours.last, joined, training)
    expected = np.einsum("nhwi,io->nhwo", last, ours.kernel.numpy()[0, 0])
    equal(ours(x, training), expected)


@both
@pytest.mark.parametrize("unit", [False, True])
def test_embeddings(unit, training):
    ours = filled(example17.Network(unit, tf.float32, seed=0))
    x = tf.cast(images(6, 35, 35), tf.uint8)
    expected = tf.cast(x, tf.float32)[..., None] / 255
    for layer in ours.layers:
        expected = keras_convolution(layer, expected, training)
    expected = layers.Flatten()(expected).numpy()
    assert expected.shape == (6, 256)
    if unit:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    equal(ours(x, training), expected)


def test_detector():
    """Boxes lie around their points, by the exponentials of what the last layer gives."""
    ours = filled(example15.Detector(3, None, tf.float32, seed=0))
    x = images(2, example15.HEIGHT, example15.WIDTH, 3)
    outputs = np.einsum("nhwi,io->nhwo", ours.features(x, False), ours.kernel.numpy()[0, 0])
    outputs += ours.bias.numpy()
    logits, boxes = ours(x)
    equal(logits, outputs[..., :3])
    for row, column in ((0, 0), (7, 31), (29, 39)):
        left, up, right, down = 24 * np.exp(np.clip(outputs[:, row, column, 3:], -4, 4)).T
        cx, cy = 8 * column + 4, 8 * row + 4
        expected = np.stack([cx - left, cy - up, cx + right, cy + down], axis=1)
        np.testing.assert_allclose(boxes[:, row, column], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["15", "16", "17"])
def test_bfloat16_is_near_float32(name):
    make = {
        "15": lambda dtype: convolution.TwoScales(None, dtype, 0),
        "16": lambda dtype: example16.UNet(dtype, 0),
        "17": lambda dtype: example17.Network(False, dtype, 0),
    }[name]
    x = tf.cast(images(4, 35, 35), tf.uint8) if name == "17" else images(2, 64, 64, 3)
    expected, found = (filled(make(dtype))(x, True).numpy() for dtype in (tf.float32, tf.bfloat16))
    assert np.abs(np.float32(found) - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("height", [16, 128, 400])
def test_an_image_in_strips_is_answered_as_a_whole(height):
    network = filled(example16.UNet(tf.float32, 0))
    image = np.random.default_rng(0).normal(0, 1, (height, 48, 3)).astype(np.float32)
    found = convolution.in_strips(network, image, rows=112)
    assert found.shape == (height, 48, 3)
    np.testing.assert_allclose(found, network(image[None])[0], atol=1e-4)
    if height > 112:
        alone = convolution.in_strips(network, image, rows=112, around=0)
        assert np.abs(alone - found).max() > 0.01


def test_a_large_image_is_answered_in_strips():
    """About two million pixels at a time, and all rows."""
    shapes = []

    def network(images):
        shapes.append(images.shape[1:3])
        return tf.constant(images[..., :1])

    image = np.arange(4800 * 2000, dtype=np.float32).reshape(4800, 2000, 1)
    assert np.array_equal(convolution.in_strips(network, image), image)
    assert len(shapes) == 5 and max(height * width for height, width in shapes) < 2.6e6
