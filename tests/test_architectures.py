"""Checks the networks in models/ that no example trains: that their building blocks compute what
Keras or the formula in the paper computes, that their sizes are the papers', and that the tables
in docs/notes/ are what docs/figures/architectures.py makes of them now.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from examples import common  # noqa: E402
from models import alexnet, inception_v1, lenet5, vgg16, vgg19  # noqa: E402

layers = tf.keras.layers


figures = programs.figures("architectures")


@pytest.fixture(scope="module")
def counts():
    return figures.count_all()


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def with_biases(weights):
    """The same weights, but no bias is zero or like another: none can be left out unnoticed."""
    for name, array in weights.items():
        if name.endswith("biases"):
            array += np.float32(0.1) * normal(array.shape, seed=len(name))
    return weights


def assert_close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def set_weights(model, weights, prefix, names):
    """Give the layers of a Keras model, by their names there, the weights of ours."""
    for name in names:
        pair = [weights[f"{prefix}/{name}/{kind}"] for kind in ("weights", "biases")]
        model.get_layer(name.replace("/", "_")).set_weights(pair)


# --- VGG19 ----------------------------------------------------------------------------------------


def test_vgg19_against_keras():
    """A narrow one: the fourth convolutions, the order, and the four sizes are the real one's."""
    config = vgg19.Config(classes=7, width=2, dense=8, image_size=64)
    weights = with_biases(vgg16.random_weights(config, 0))
    stack = [tf.keras.Input((64, 64, 3))]
    for count, filters in zip((2, 2, 4, 4, 4), (2, 4, 8, 16, 16), strict=True):
        stack += [layers.Conv2D(filters, 3, padding="same", activation="relu")] * 0
        for _ in range(count):
            stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        stack.append(layers.MaxPooling2D())
    stack.append(layers.Flatten())
    stack += [layers.Dense(8, activation="relu"), layers.Dense(8, activation="relu")]
    stack.append(layers.Dense(7))
    model = tf.keras.Sequential(stack)
    pairs = zip(model.weights, weights.values(), strict=True)
    model.set_weights([array.reshape(variable.shape) for variable, array in pairs])
    images = normal((3, 64, 64, 3), seed=1)
    assert_close(vgg19.VGG19(weights, config)(images), model(images))


def test_vgg19_has_the_weights_of_keras_and_tf_slim():
    """`None`: no file is read; the network is built with random weights, and is not run."""
    shapes = vgg19.Config().shapes()
    with tf.Graph().as_default():  # so that nothing is drawn
        model = tf.keras.applications.VGG19(weights=None)
        keras = [tuple(variable.shape) for variable in model.weights]
    assert len(shapes) == len(keras) == 38
    for (name, shape), other in zip(shapes.items(), keras, strict=True):
        assert np.prod(shape) == np.prod(other), name
        if "/conv" in name:
            assert shape == other, name
    assert list(shapes)[14:16] == [f"vgg_19/conv3/conv3_4/{kind}" for kind in ("weights", "biases")]
    assert shapes["vgg_19/fc6/weights"] == (7, 7, 512, 4096)


@pytest.mark.slow
def test_vgg19_of_full_size_against_keras_applications():
    config = vgg19.Config()
    weights = with_biases(vgg16.random_weights(config, 0))
    images = normal((2, 224, 224, 3))
    logits = vgg19.VGG19(weights, config)(images).numpy()
    model = tf.keras.applications.VGG19(weights=None, classifier_activation=None)
    for variable, array in zip(model.weights, weights.values(), strict=True):
        variable.assign(array.reshape(variable.shape))
    expected = model(images).numpy()
    assert logits.shape == (2, 1000)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


# --- AlexNet --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alex():
    """The network at full size, and its weights; the kernels are larger than the paper's."""
    config = alexnet.Config()
    weights = with_biases(vgg16.random_weights(config, 0))
    return alexnet.AlexNet(weights, config), weights


def test_alexnet_runs_at_the_papers_size(alex):
    network, _ = alex
    logits = network(normal((2, 227, 227, 3))).numpy()
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()
    assert np.ptp(logits[0] - logits[1]) > 0


@pytest.mark.parametrize(("name", "inputs"), [("conv2", 96), ("conv4", 384), ("conv5", 384)])
def test_towers_are_keras_grouped_convolution(alex, name, inputs):
    network, weights = alex
    x = normal((2, 7, 7, inputs))
    kernel, bias = (weights[f"alexnet/{name}/{kind}"] for kind in ("weights", "biases"))
    other = layers.Conv2D(
        kernel.shape[-1], kernel.shape[0], padding="same", groups=2, activation="relu"
    )
    other.build(x.shape)
    other.set_weights([kernel, bias])
    assert_close(network.convolution(name, x, towers=2), other(x))


def test_a_tower_does_not_see_the_other(alex):
    network, _ = alex
    x = normal((1, 7, 7, 96))
    changed = x.copy()
    changed[..., 48:] += 1
    before, after = (network.convolution("conv2", y, towers=2).numpy() for y in (x, changed))
    assert np.array_equal(before[..., :128], after[..., :128])
    assert not np.array_equal(before[..., 128:], after[..., 128:])


def test_normalisation_is_the_papers_formula():
    """Section 3.3: the sum runs over n = 5 channels, fewer at both ends."""
    x = 30 * normal((2, 3, 3, 9))
    expected = np.empty_like(x)
    for i in range(9):
        squares = np.square(x[..., max(0, i - 2) : min(8, i + 2) + 1]).sum(axis=-1)
        expected[..., i] = x[..., i] / (2 + 1e-4 * squares) ** 0.75
    assert_close(alexnet.normalise(tf.constant(x)), expected)
    assert_close(inception_v1.normalise(tf.constant(x)), expected)
    assert not np.allclose(expected, x / 2**0.75, rtol=1e-3)  # the squares do matter here


def test_whole_alexnet_against_keras(alex):
    """All that lies between the layers: strides, paddings, poolings, order of height and width."""
    network, weights = alex
    stack = [
        tf.keras.Input((227, 227, 3)),
        layers.Conv2D(96, 11, strides=4, activation="relu", name="conv1"),
        layers.Lambda(lambda x: tf.nn.lrn(x, 2, 2, 1e-4, 0.75)),
        layers.MaxPooling2D(3, 2),
        layers.Conv2D(256, 5, padding="same", groups=2, activation="relu", name="conv2"),
        layers.Lambda(lambda x: tf.nn.lrn(x, 2, 2, 1e-4, 0.75)),
        layers.MaxPooling2D(3, 2),
        layers.Conv2D(384, 3, padding="same", activation="relu", name="conv3"),
        layers.Conv2D(384, 3, padding="same", groups=2, activation="relu", name="conv4"),
        layers.Conv2D(256, 3, padding="same", groups=2, activation="relu", name="conv5"),
        layers.MaxPooling2D(3, 2),
        layers.Flatten(),
        layers.Dense(4096, activation="relu", name="fc6"),
        layers.Dense(4096, activation="relu", name="fc7"),
        layers.Dense(1000, name="fc8"),
    ]
    model = tf.keras.Sequential(stack)
    names = [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7", "fc8"]
    set_weights(model, weights, "alexnet", names)
    images = normal((1, 227, 227, 3), seed=2)
    logits, expected = network(images).numpy(), model(images).numpy()
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


def test_alexnets_first_weights():
    """Section 5: which biases are 1, and how wide the kernels' distribution is."""
    weights = alexnet.random_weights(alexnet.Config(classes=10), 0)
    ones = {name.split("/")[1] for name, array in weights.items() if np.all(array == 1)}
    zeros = {name.split("/")[1] for name, array in weights.items() if np.all(array == 0)}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert zeros == {"conv1", "conv3", "fc8"}
    assert np.std(weights["alexnet/fc7/weights"]) == pytest.approx(0.01, rel=0.01)


# --- GoogLeNet ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def googlenet():
    config = inception_v1.Config()
    weights = with_biases(vgg16.random_weights(config, 0))
    return inception_v1.InceptionV1(weights, config), weights


def keras_module(x, name):
    """An inception module of Keras' layers, named as ours."""
    sizes = inception_v1.MODULES[name]

    def convolution(x, branch, filters):
        size = int(branch[0]) if branch in ("1x1", "3x3", "5x5") else 1
        layer = layers.Conv2D(
            filters, size, padding="same", activation="relu", name=f"{name}_{branch}"
        )
        return layer(x)

    branches = [
        convolution(x, "1x1", sizes[0]),
        convolution(convolution(x, "3x3_reduce", sizes[1]), "3x3", sizes[2]),
        convolution(convolution(x, "5x5_reduce", sizes[3]), "5x5", sizes[4]),
        convolution(layers.MaxPooling2D(3, 1, padding="same")(x), "projection", sizes[5]),
    ]
    return layers.Concatenate()(branches)


@pytest.fixture(scope="module")
def keras_googlenet(googlenet):
    """The whole network of Keras' layers: what comes out of 4a and 4d, and the logits."""
    _, weights = googlenet
    inputs = tf.keras.Input((224, 224, 3))
    names = ["conv1", "conv2_reduce", "conv2", "linear"]
    normalise = layers.Lambda(lambda x: tf.nn.lrn(x, 2, 2, 1e-4, 0.75))
    x = layers.Conv2D(64, 7, 2, padding="same", activation="relu", name="conv1")(inputs)
    x = normalise(layers.MaxPooling2D(3, 2, padding="same")(x))
    x = layers.Conv2D(64, 1, activation="relu", name="conv2_reduce")(x)
    x = layers.Conv2D(192, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(normalise(x))
    outputs = []
    for module in inception_v1.MODULES:
        if module in ("4a", "5a"):
            x = layers.MaxPooling2D(3, 2, padding="same")(x)
        x = keras_module(x, module)
        outputs += [x] if module in ("4a", "4d") else []
        branches = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "projection")
        names += [f"{module}/{branch}" for branch in branches]
    x = layers.GlobalAveragePooling2D()(x)
    outputs.append(layers.Dense(1000, name="linear")(x))
    model = tf.keras.Model(inputs, outputs)
    set_weights(model, weights, "inception_v1", names)
    return model


def test_googlenet_against_keras(googlenet, keras_googlenet):
    network, _ = googlenet
    images = normal((2, 224, 224, 3))
    made = network.modules(images)
    at_4a, at_4d, expected = keras_googlenet(images)
    assert_close(made["4a"], at_4a)
    assert_close(made["4d"], at_4d)
    logits = network(images).numpy()
    assert logits.shape == (2, 1000)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


def test_outputs_are_those_of_table_1(googlenet):
    made = googlenet[0].modules(normal((1, 224, 224, 3)))
    assert {name: tuple(x.shape[1:]) for name, x in made.items()} == {
        "3a": (28, 28, 256),
        "3b": (28, 28, 480),
        "4a": (14, 14, 512),
        "4b": (14, 14, 512),
        "4c": (14, 14, 512),
        "4d": (14, 14, 528),
        "4e": (14, 14, 832),
        "5a": (7, 7, 832),
        "5b": (7, 7, 1024),
    }


@pytest.mark.parametrize(("module", "channels"), [("4a", 512), ("4d", 528)])
def test_auxiliary_classifier_against_keras(googlenet, monkeypatch, module, channels):
    network, weights = googlenet
    stack = [
        tf.keras.Input((14, 14, channels)),
        layers.AveragePooling2D(5, 3),
        layers.Conv2D(128, 1, activation="relu", name=f"auxiliary_{module}_reduce"),
        layers.Flatten(),
        layers.Dense(1024, activation="relu", name=f"auxiliary_{module}_dense"),
        layers.Dense(1000, name=f"auxiliary_{module}_linear"),
    ]
    model = tf.keras.Sequential(stack)
    names = [f"auxiliary_{module}/{part}" for part in ("reduce", "dense", "linear")]
    set_weights(model, weights, "inception_v1", names)
    x = np.abs(normal((2, 14, 14, channels)))
    monkeypatch.setattr(tf.nn, "dropout", lambda x, share: x)
    assert_close(network.auxiliary(module, tf.constant(x)), model(x))


def test_training_loss_weighs_the_auxiliary_classifiers(googlenet):
    network, _ = googlenet
    labels = np.array([3, 999])
    tf.random.set_seed(0)
    logits = network.training_logits(normal((2, 224, 224, 3)))
    assert [x.shape for x in logits] == [(2, 1000)] * 3
    main, first, second = (
        tf.keras.losses.sparse_categorical_crossentropy(labels, x, from_logits=True).numpy().mean()
        for x in logits
    )
    loss = inception_v1.training_loss(logits, labels)
    assert loss.numpy() == pytest.approx(main + 0.3 * first + 0.3 * second, rel=1e-5)


def test_the_auxiliary_classifiers_train_the_lower_half(googlenet):
    """All weights have a gradient in training; without the auxiliary ones, theirs have none."""
    network, _ = googlenet
    images, labels = normal((1, 224, 224, 3)), np.array([3])
    with tf.GradientTape() as tape:
        loss = inception_v1.training_loss(network.training_logits(images), labels)
    gradients = tape.gradient(loss, network.weights)
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(network(images))
    gradients = tape.gradient(loss, network.weights)
    unused = {name.split("/")[1] for name, gradient in gradients.items() if gradient is None}
    assert unused == {"auxiliary_4a", "auxiliary_4d"}


# --- LeNet-5 --------------------------------------------------------------------------------------


def test_lenet_against_numpy():
    weights = with_biases(lenet5.random_weights(0))
    for array in weights.values():
        array *= 3  # so that the sigmoids are not all in their straight part
    w = {name.removeprefix("lenet_5/"): array for name, array in weights.items()}
    images = normal((2, 32, 32, 1))

    def windows(x, size, stride):
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return view[:, ::stride, ::stride]  # (N, H, W, C, size, size)

    def convolve(x, name):
        return np.einsum("nhwcij,ijco->nhwo", windows(x, 5, 1), w[f"{name}/weights"])

    def f(x):
        return 1.7159 * np.tanh(2 * x / 3)

    def subsample(x, name):
        return windows(x, 2, 2).sum(axis=(-1, -2)) * w[f"{name}/weights"] + w[f"{name}/biases"]

    x = f(convolve(images, "c1") + w["c1/biases"])
    x = f(subsample(x, "s2"))
    x = np.concatenate(
        [
            convolve(x[..., inputs], f"c3_{i}") + w[f"c3_{i}/biases"]
            for i, inputs in enumerate(lenet5.C3_INPUTS)
        ],
        axis=-1,
    )
    x = f(subsample(f(x), "s4"))
    x = f(convolve(x, "c5") + w["c5/biases"]).reshape(2, 120)
    x = f(x @ w["f6/weights"] + w["f6/biases"])
    expected = [[-np.sum((row - code) ** 2) for code in lenet5.CODES] for row in x]
    assert_close(lenet5.LeNet5(weights)(images), np.float32(expected))


def test_table_1_of_lenet():
    """LeCun et al. 1998, table I, as it is printed: rows are S2's outputs, columns C3's."""
    printed = [
        "X   XXX  XXXX XX",
        "XX   XXX  XXXX X",
        "XXX   XXX  X XXX",
        " XXX  XXXX  X XX",
        "  XXX  XXXX XX X",
        "   XXX  XXXX XXX",
    ]
    for column, inputs in enumerate(lenet5.C3_INPUTS):
        assert sorted(inputs) == [row for row in range(6) if printed[row][column] == "X"]


def test_lenets_connections():
    """Section II: each layer's connections, biases included, and 340,908 in all."""
    shapes = lenet5.shapes()
    sides = {"c1": 28, "s2": 14, "c3": 10, "s4": 5, "c5": 1, "f6": 1}
    connections = dict.fromkeys(sides, 0)
    for name, shape in shapes.items():
        layer = name.split("/")[1].partition("_")[0]
        inputs = 4 if layer in ("s2", "s4") and name.endswith("weights") else 1
        connections[layer] += sides[layer] ** 2 * inputs * int(np.prod(shape))
    assert connections == {
        "c1": 122_304,
        "s2": 5_880,
        "c3": 151_600,
        "s4": 2_000,
        "c5": 48_120,
        "f6": 10_164,
    }
    assert sum(connections.values()) + lenet5.CODES.size == 340_908


# --- Dropout --------------------------------------------------------------------------------------


def test_shares_that_training_drops(alex, googlenet, monkeypatch):
    """Krizhevsky et al. 2012, section 4.2; Simonyan, Zisserman 2014, 3.1; Szegedy et al., 5."""
    shares = []
    monkeypatch.setattr(tf.nn, "dropout", lambda x, share: shares.append(share) or x)
    config = vgg19.Config(classes=7, width=2, dense=8, image_size=64)
    vgg = vgg19.VGG19(vgg16.random_weights(config, 0), config)
    alex_images, images, small = (normal((1, side, side, 3)) for side in (227, 224, 64))
    alex[0](alex_images), googlenet[0](images), vgg(small)
    assert shares == []
    alex[0](alex_images, training=True)
    vgg(small, training=True)
    assert shares == [0.5] * 4
    googlenet[0].training_logits(images)
    assert shares[4:] == [0.4, 0.7, 0.7]


# --- Counts, tables, pictures ---------------------------------------------------------------------


def test_counts_are_the_papers(counts):
    parameters = {name: found.parameters for name, found in counts.items()}
    assert parameters == {
        "LeNet-5": 60_000,  # LeCun et al. 1998, II.A
        "AlexNet": 60_965_224,  # 60 million: Krizhevsky et al. 2012, section 4
        "VGG16": 138_357_544,  # 138 million: Simonyan, Zisserman 2014, table 2
        "VGG19": 143_667_240,  # 144 million: the same
        "GoogLeNet": 6_998_552,  # about 6.96 million: Szegedy et al. 2014, sum of table 1
    }
    assert {name: found.depth() for name, found in counts.items()} == {
        "LeNet-5": 4,
        "AlexNet": 8,
        "VGG16": 16,
        "VGG19": 19,
        "GoogLeNet": 22,  # counted along the longest way, as section 5 does
    }


def test_multiply_adds_against_tensorflows_profiler(counts):
    """TensorFlow counts a product and a sum as two operations."""
    config, size = inception_v1.Config(), inception_v1.IMAGE_SIZE
    network = inception_v1.InceptionV1(figures.zeros(config.shapes()), config)
    image = tf.TensorSpec([1, size, size, 3])
    graph = tf.function(network).get_concrete_function(image).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    options = options(options.float_operation()).with_empty_output()
    options = options.with_node_names(show_name_regexes=[".*Conv2D.*", ".*MatMul.*"])
    found = tf.compat.v1.profiler.profile(graph, cmd="scope", options=options.build())
    assert found.total_float_ops == 2 * counts["GoogLeNet"].multiply_adds()


def test_multiply_adds_by_hand(counts):
    """AlexNet's by the sizes in the paper; VGG19's as published (He et al. 2015, section 3.3)."""
    convolutions = [55**2 * 11**2 * 3 * 96, 27**2 * 5**2 * 48 * 256, 13**2 * 9 * 256 * 384]
    convolutions += [13**2 * 9 * 192 * 384, 13**2 * 9 * 192 * 256]
    dense = [9216 * 4096, 4096 * 4096, 4096 * 1000]
    assert counts["AlexNet"].multiply_adds("Conv2D") == sum(convolutions)
    assert counts["AlexNet"].multiply_adds("MatMul") == sum(dense)
    assert round(counts["VGG19"].multiply_adds() / 1e9, 1) == 19.6


def test_rows_of_googlenet_add_up(counts):
    rows = figures.googlenet_rows(counts["GoogLeNet"])
    weights, multiply_adds = (sum(column) for column in zip(*rows.values(), strict=True))
    assert weights == counts["GoogLeNet"].weights()
    assert multiply_adds == counts["GoogLeNet"].multiply_adds()
    for row in ("conv2", "3b", "4b", "linear"):  # those in which the paper agrees with itself
        assert rows[row][0] / 1024 == pytest.approx(figures.GOOGLENET_TABLE[row][0], rel=0.005)


def test_tables_in_the_notes_are_those_of_the_code(counts):
    """Where this fails: python docs/figures/architectures.py."""
    made = figures.tables(counts)
    tables = (ROOT / "docs" / "notes" / "_generated").glob("architectures*.md")
    found = {path.stem: path.read_text().split("\n", 2)[2] for path in tables}
    assert found == made


def test_pictures_can_be_drawn(counts, tmp_path):
    for figure in (figures.draw_networks(counts), figures.draw_inception()):
        path = common.save_figure(figure, tmp_path / "picture.png")
        assert path.stat().st_size > 5000


def test_the_notes_code_runs():
    """The two listings of the note: a network that answers, and a residual block."""
    text = (ROOT / "docs" / "notes" / "07_architectures.md").read_text()
    run, block = (part.partition("```")[0] for part in text.split("```python\n")[1:])
    names = {}
    exec(run, names)
    assert names["logits"].shape == (1, 1000)
    exec(block, names)
    x, zeros = normal((1, 5, 5, 4)), np.zeros((3, 3, 4, 4), np.float32)
    found = names["residual_block"](x, zeros, zeros, tf.identity)
    assert np.array_equal(found, np.maximum(x, 0))  # nothing learned: the block changes nothing
    kernels = normal((3, 3, 4, 4), seed=1), normal((3, 3, 4, 4), seed=2)
    one, two = (layers.Conv2D(4, 3, padding="same", use_bias=False) for _ in kernels)
    for layer, kernel in zip((one, two), kernels, strict=True):
        layer.build(x.shape)
        layer.set_weights([kernel])
    expected = tf.nn.relu(x + two(tf.nn.relu(one(x))))
    assert_close(names["residual_block"](x, *kernels, tf.identity), expected)
