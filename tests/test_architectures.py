"""Checks the networks in models/ that no example trains, and docs/figures/architectures.py."""

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf
from notes import normal

from models import alexnet, inception_v1, lenet5, vgg16, vgg19

figures = programs.figures("architectures")
keras = tf.keras.layers


@pytest.fixture(scope="module")
def counts():
    return figures.count_all()


def with_biases(weights):
    """The same weights, but no bias is zero or like another: none can be left out unnoticed."""
    for name, array in weights.items():
        if name.endswith("biases"):
            array += np.float32(0.1) * normal(*array.shape, seed=len(name))
    return weights


def assert_close(found, expected, share=1e-5):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=share * np.abs(expected).max())


def convolution(filters, size=1, name=None, stride=1, padding="same", **options):
    options |= {"padding": padding, "activation": "relu", "name": name}
    return keras.Conv2D(filters, size, stride, **options)


def dense(units, name=None):
    return keras.Dense(units, "relu", name=name)


def local_response_normalisation():
    return keras.Lambda(lambda x: tf.nn.lrn(x, 2, 2, 1e-4, 0.75))


def with_weights(model, weights, prefix):
    """Give the layers of a Keras model, by their names there, the weights of ours."""
    for layer in model.layers:
        if layer.weights:
            name = f"{prefix}/{layer.name.replace('-', '/')}"
            layer.set_weights([weights[f"{name}/{kind}"] for kind in ("weights", "biases")])
    return model


# --- VGG19 ----------------------------------------------------------------------------------------


def test_vgg19_against_keras():
    """A narrow one: the fourth convolutions, the order, and the four sizes are the real one's."""
    config = vgg19.Config(classes=7, width=2, dense=8, image_size=64)
    weights = with_biases(vgg16.random_weights(config, 0))
    stack = [tf.keras.Input((64, 64, 3))]
    for count, filters in zip((2, 2, 4, 4, 4), (2, 4, 8, 16, 16), strict=True):
        stack += [*(convolution(filters, 3) for _ in range(count)), keras.MaxPooling2D()]
    model = tf.keras.Sequential([*stack, keras.Flatten(), dense(8), dense(8), keras.Dense(7)])
    pairs = zip(model.weights, weights.values(), strict=True)
    model.set_weights([array.reshape(variable.shape) for variable, array in pairs])
    images = normal(3, 64, 64, 3, seed=1)
    assert_close(vgg19.VGG19(weights, config)(images), model(images))


def test_vgg19_has_the_weights_of_keras_and_tf_slim():
    shapes = vgg19.Config().shapes()
    with tf.Graph().as_default():  # so that nothing is drawn
        model = tf.keras.applications.VGG19(weights=None)
        published = [tuple(variable.shape) for variable in model.weights]
    assert len(shapes) == len(published) == 38
    for (name, shape), other in zip(shapes.items(), published, strict=True):
        assert shape == other if "/conv" in name else np.prod(shape) == np.prod(other), name
    assert list(shapes)[14:16] == [f"vgg_19/conv3/conv3_4/{kind}" for kind in ("weights", "biases")]
    assert shapes["vgg_19/fc6/weights"] == (7, 7, 512, 4096)


# --- AlexNet --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alex():
    """The network at full size, and its weights; the kernels are larger than the paper's."""
    config = alexnet.Config()
    weights = with_biases(vgg16.random_weights(config, 0))
    return alexnet.AlexNet(weights, config), weights


def test_alexnet_against_keras(alex):
    """Towers, strides, paddings, poolings, order of height and width."""
    network, weights = alex
    stack = [
        tf.keras.Input((227, 227, 3)),
        convolution(96, 11, "conv1", stride=4, padding="valid"),
        local_response_normalisation(),
        keras.MaxPooling2D(3, 2),
        convolution(256, 5, "conv2", groups=2),
        local_response_normalisation(),
        keras.MaxPooling2D(3, 2),
        convolution(384, 3, "conv3"),
        convolution(384, 3, "conv4", groups=2),
        convolution(256, 3, "conv5", groups=2),
        keras.MaxPooling2D(3, 2),
        keras.Flatten(),
        *(dense(4096, "fc6"), dense(4096, "fc7"), keras.Dense(1000, name="fc8")),
    ]
    model = with_weights(tf.keras.Sequential(stack), weights, "alexnet")
    images = normal(2, 227, 227, 3, seed=2)
    logits = network(images).numpy()
    assert_close(logits, model(images), share=1e-3)
    assert np.ptp(logits[0] - logits[1]) > 0


def test_normalisation_is_the_papers_formula():
    """Section 3.3: the sum runs over n = 5 channels, fewer at both ends."""
    x = 30 * normal(2, 3, 3, 9)
    expected = np.empty_like(x)
    for i in range(9):
        squares = np.square(x[..., max(0, i - 2) : min(8, i + 2) + 1]).sum(axis=-1)
        expected[..., i] = x[..., i] / (2 + 1e-4 * squares) ** 0.75
    assert_close(alexnet.normalise(tf.constant(x)), expected)
    assert_close(inception_v1.normalise(tf.constant(x)), expected)
    assert not np.allclose(expected, x / 2**0.75, rtol=1e-3)  # the squares do matter here


def test_alexnets_first_weights():
    """Section 5: which biases are 1, and how wide the kernels' distribution is."""
    weights = alexnet.random_weights(alexnet.Config(classes=10), 0)
    biases = {name.split("/")[1]: x for name, x in weights.items() if name.endswith("biases")}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert all(np.all(x == (name in ones)) for name, x in biases.items())
    assert np.std(weights["alexnet/fc6/weights"][:200]) == pytest.approx(0.01, rel=0.01)


# --- GoogLeNet ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def googlenet():
    config = inception_v1.Config()
    weights = with_biases(vgg16.random_weights(config, 0))
    return inception_v1.InceptionV1(weights, config), weights


def keras_module(x, name):
    """An inception module of Keras' layers, named as ours."""
    one, reduce3, three, reduce5, five, projection = inception_v1.MODULES[name]
    by3 = convolution(reduce3, 1, f"{name}-3x3_reduce")(x)
    by5 = convolution(reduce5, 1, f"{name}-5x5_reduce")(x)
    pooled = keras.MaxPooling2D(3, 1, "same")(x)
    branches = [
        convolution(one, 1, f"{name}-1x1")(x),
        convolution(three, 3, f"{name}-3x3")(by3),
        convolution(five, 5, f"{name}-5x5")(by5),
        convolution(projection, 1, f"{name}-projection")(pooled),
    ]
    return keras.Concatenate()(branches)


def keras_googlenet():
    """The whole network of Keras' layers: what comes out of 4a and 4d, and the logits."""
    inputs = tf.keras.Input((224, 224, 3))
    x = keras.MaxPooling2D(3, 2, "same")(convolution(64, 7, "conv1", stride=2)(inputs))
    x = convolution(64, 1, "conv2_reduce")(local_response_normalisation()(x))
    x = local_response_normalisation()(convolution(192, 3, "conv2")(x))
    x, outputs = keras.MaxPooling2D(3, 2, "same")(x), []
    for module in inception_v1.MODULES:
        if module in ("4a", "5a"):
            x = keras.MaxPooling2D(3, 2, "same")(x)
        x = keras_module(x, module)
        outputs += [x] if module in ("4a", "4d") else []
    logits = keras.Dense(1000, name="linear")(keras.GlobalAveragePooling2D()(x))
    return tf.keras.Model(inputs, [*outputs, logits])


def test_googlenet_against_keras_and_table_1(googlenet):
    network, weights = googlenet
    images = normal(2, 224, 224, 3)
    made = network.modules(images)
    at_4a, at_4d, logits = with_weights(keras_googlenet(), weights, "inception_v1")(images)
    assert_close(made["4a"], at_4a)
    assert_close(made["4d"], at_4d)
    assert_close(network(images), logits, share=1e-3)
    sizes = {name: tuple(x.shape[1:]) for name, x in made.items()}
    channels = (256, 480, 512, 512, 512, 528, 832, 832, 1024)
    sides = (28, 28, 14, 14, 14, 14, 14, 7, 7)
    pairs = zip(inception_v1.MODULES, sides, channels, strict=True)
    assert sizes == {name: (side, side, count) for name, side, count in pairs}


@pytest.mark.parametrize(("module", "channels"), [("4a", 512), ("4d", 528)])
def test_auxiliary_classifier_against_keras(googlenet, monkeypatch, module, channels):
    network, weights = googlenet
    stack = [
        tf.keras.Input((14, 14, channels)),
        keras.AveragePooling2D(5, 3),
        convolution(128, 1, "reduce"),
        keras.Flatten(),
        *(dense(1024, "dense"), keras.Dense(1000, name="linear")),
    ]
    prefix = f"inception_v1/auxiliary_{module}"
    model = with_weights(tf.keras.Sequential(stack), weights, prefix)
    x = np.abs(normal(2, 14, 14, channels))
    monkeypatch.setattr(tf.nn, "dropout", lambda x, share: x)
    assert_close(network.auxiliary(module, tf.constant(x)), model(x))


def test_the_auxiliary_classifiers_train_the_lower_half(googlenet):
    """All weights have a gradient in training; without the auxiliary ones, theirs have none."""
    network, _ = googlenet
    images, labels = normal(1, 224, 224, 3), np.array([3])
    with tf.GradientTape(persistent=True) as tape:
        logits = network.training_logits(images)
        loss = inception_v1.training_loss(logits, labels)
    assert [x.shape for x in logits] == [(1, 1000)] * 3
    losses = [-tf.nn.log_softmax(x)[0, 3].numpy() for x in logits]
    assert float(loss) == pytest.approx(np.dot([1, 0.3, 0.3], losses), rel=1e-5)

    def unused(loss):
        found = tape.gradient(loss, network.weights)
        return {name.split("/")[1] for name, gradient in found.items() if gradient is None}

    assert unused(loss) == set()
    assert unused(logits[0]) == {"auxiliary_4a", "auxiliary_4d"}


# --- LeNet-5 --------------------------------------------------------------------------------------


def test_lenet_against_numpy():
    weights = with_biases(lenet5.random_weights(0))
    for array in weights.values():
        array *= 3  # so that the sigmoids are not all in their straight part
    w = {name.removeprefix("lenet_5/"): array for name, array in weights.items()}
    images = normal(2, 32, 32, 1)

    def windows(x, size, stride):
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return view[:, ::stride, ::stride]  # (N, H, W, C, size, size)

    def convolve(x, name):
        sums = np.einsum("nhwcij,ijco->nhwo", windows(x, 5, 1), w[f"{name}/weights"])
        return sums + w[f"{name}/biases"]

    def f(x):
        return 1.7159 * np.tanh(2 * x / 3)

    def subsample(x, name):
        return windows(x, 2, 2).sum(axis=(-1, -2)) * w[f"{name}/weights"] + w[f"{name}/biases"]

    x = f(subsample(f(convolve(images, "c1")), "s2"))
    maps = [convolve(x[..., inputs], f"c3_{i}") for i, inputs in enumerate(lenet5.C3_INPUTS)]
    x = f(subsample(f(np.concatenate(maps, axis=-1)), "s4"))
    x = f(convolve(x, "c5")).reshape(2, 120)
    x = f(x @ w["f6/weights"] + w["f6/biases"])
    expected = [[-np.sum((row - code) ** 2) for code in lenet5.CODES] for row in x]
    assert_close(lenet5.LeNet5(weights)(images), np.float32(expected))


def test_lenets_connections():
    """Table I, with o for X: rows are S2's outputs, columns C3's; section II: the connections."""
    printed = [
        "o   ooo  oooo oo",
        "oo   ooo  oooo o",
        "ooo   ooo  o ooo",
        " ooo  oooo  o oo",
        "  ooo  oooo oo o",
        "   ooo  oooo ooo",
    ]
    for column, inputs in enumerate(lenet5.C3_INPUTS):
        assert sorted(inputs) == [row for row in range(6) if printed[row][column] == "o"]
    sides = {"c1": 28, "s2": 14, "c3": 10, "s4": 5, "c5": 1, "f6": 1}
    connections = dict.fromkeys(sides, 0)
    for name, shape in lenet5.shapes().items():  # biases included
        layer = name.split("/")[1].partition("_")[0]
        inputs = 4 if layer in ("s2", "s4") and name.endswith("weights") else 1
        connections[layer] += sides[layer] ** 2 * inputs * int(np.prod(shape))
    assert list(connections.values()) == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164]
    assert sum(connections.values()) + lenet5.CODES.size == 340_908


# --- Counts, tables, pictures ---------------------------------------------------------------------


def test_shares_that_training_drops(alex, googlenet, monkeypatch):
    """Krizhevsky et al. 2012, section 4.2; Simonyan, Zisserman 2014, 3.1; Szegedy et al., 5."""
    shares = []
    monkeypatch.setattr(tf.nn, "dropout", lambda x, share: shares.append(share) or x)
    config = vgg19.Config(classes=7, width=2, dense=8, image_size=64)
    vgg = vgg19.VGG19(vgg16.random_weights(config, 0), config)
    alex_images, images, small = (normal(1, side, side, 3) for side in (227, 224, 64))
    alex[0](alex_images), googlenet[0](images), vgg(small)
    assert shares == []
    alex[0](alex_images, training=True)
    vgg(small, training=True)
    googlenet[0].training_logits(images)
    assert shares == [0.5] * 4 + [0.4, 0.7, 0.7]


def test_counts_are_the_papers(counts):
    found = {name: (each.parameters, each.depth()) for name, each in counts.items()}
    assert found == {
        "LeNet-5": (60_000, 4),  # LeCun et al. 1998, II.A
        "AlexNet": (60_965_224, 8),  # 60 million: Krizhevsky et al. 2012, section 4
        "VGG16": (138_357_544, 16),  # 138 million: Simonyan, Zisserman 2014, table 2
        "VGG19": (143_667_240, 19),  # 144 million: the same
        "GoogLeNet": (6_998_552, 22),  # about 6.96 million: Szegedy et al. 2014, sum of table 1
    }


def test_multiply_adds_by_hand_and_by_tensorflows_profiler(counts):
    """AlexNet's by the sizes in the paper; VGG19's as published (He et al. 2015, section 3.3)."""
    convolutions = [55**2 * 11**2 * 3 * 96, 27**2 * 5**2 * 48 * 256, 13**2 * 9 * 256 * 384]
    convolutions += [13**2 * 9 * 192 * 384, 13**2 * 9 * 192 * 256]
    assert counts["AlexNet"].multiply_adds("Conv2D") == sum(convolutions)
    assert counts["AlexNet"].multiply_adds("MatMul") == 4096 * (9216 + 4096 + 1000)
    assert round(counts["VGG19"].multiply_adds() / 1e9, 1) == 19.6
    config, size = inception_v1.Config(), inception_v1.IMAGE_SIZE
    network = inception_v1.InceptionV1(figures.zeros(config.shapes()), config)
    graph = tf.function(network).get_concrete_function(tf.TensorSpec([1, size, size, 3])).graph
    assert notes.multiply_adds(graph) == counts["GoogLeNet"].multiply_adds()


def test_rows_of_googlenet_add_up(counts):
    rows = figures.googlenet_rows(counts["GoogLeNet"])
    weights, multiply_adds = (sum(column) for column in zip(*rows.values(), strict=True))
    assert weights == counts["GoogLeNet"].weights()
    assert multiply_adds == counts["GoogLeNet"].multiply_adds()
    for row in ("conv2", "3b", "4b", "linear"):  # those in which the paper agrees with itself
        assert rows[row][0] / 1024 == pytest.approx(figures.GOOGLENET_TABLE[row][0], rel=0.005)


def test_tables_and_pictures(counts, tmp_path):
    """Where this fails: python docs/figures architectures."""
    made = figures.tables(counts)
    assert {name: notes.generated(name) for name in made} == {n: t.strip() for n, t in made.items()}
    for figure in (figures.draw_networks(counts), figures.draw_inception()):
        figure.savefig(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_residual_block_of_the_note():
    block = notes.run_listings(7)["residual_block"]
    x, zeros = normal(1, 5, 5, 4), np.zeros((3, 3, 4, 4), np.float32)
    assert np.array_equal(block(x, zeros, zeros, tf.identity), np.maximum(x, 0))  # nothing learned
    kernels = normal(3, 3, 4, 4, seed=1), normal(3, 3, 4, 4, seed=2)
    one, two = (keras.Conv2D(4, 3, padding="same", use_bias=False) for _ in kernels)
    for layer, kernel in zip((one, two), kernels, strict=True):
        layer.build(x.shape)
        layer.set_weights([kernel])
    assert_close(block(x, *kernels, tf.identity), tf.nn.relu(x + two(tf.nn.relu(one(x)))))
