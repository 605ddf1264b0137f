"""Checks models/vgg16.py against Keras, and every file format bit for bit, damaged ones too."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from programs import ROOT, Trap, one_line_of

from datasets import cats_dogs, drawings, pretrained
from datasets.photographs import read_photographs
from examples.helpers.report import tf
from models import WeightsError, vgg16, vgg16_files

# 64 pixels: fc6 sees 2 x 2 positions, so that their order matters.
SMALL = vgg16.Config(classes=7, width=2, dense=8, image_size=64)
BLOCKS = vgg16.Config(0, width=2, dense=0, image_size=48, pooling=("mean4", "max5"))
FORMATS = ("V1", "V2", "npz", "h5", "h5 nested")
SAVED = ("numbers.weights.h5", "numbers.h5", "numbers.keras", "names.h5", "backwards.h5")
BIASES = "vgg_16/conv3/conv3_2/biases"  # stands for any weight
FIRST_KERNEL = vgg16_files.FIRST_KERNEL


def weights_with_biases(config, seed=0):
    """Random weights; the biases too, so that none can be left out or swapped unnoticed."""
    weights = vgg16.random_weights(config, seed)
    rng = np.random.default_rng(seed)
    for name, array in weights.items():
        if name.endswith("biases"):
            array += rng.normal(0, 0.1, array.shape).astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def weights():
    return weights_with_biases(SMALL)


@pytest.fixture(scope="module")
def images():
    """uint8 (3, 64, 64, 3)."""
    return np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)


def keras_layers(weights):
    """Kernel and bias of each layer, under the names that Keras gives the layers, in its shapes."""
    renamed = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
    layers = {}
    for name, kernel in weights.items():
        if not name.endswith("/weights"):
            continue
        layer = name.split("/")[-2]
        if layer.startswith("conv"):  # conv1_2 -> block1_conv2
            layer = "block{}_conv{}".format(*layer.removeprefix("conv").split("_"))
        else:
            layer, kernel = renamed[layer], kernel.reshape(-1, kernel.shape[-1])
        layers[layer] = kernel, weights[name.removesuffix("weights") + "biases"]
    return layers


def write_keras(path, weights, nested=False):
    """Write the layout of vgg16_weights_tf_dim_ordering_tf_kernels.h5, for blue-green-red images.

    Keras 1 called the arrays block1_conv1_W_1:0, Keras 2 block1_conv1/kernel:0.
    """
    with h5py.File(path, "w") as file:
        for layer, (kernel, bias) in keras_layers(weights).items():
            if layer == "block1_conv1":
                kernel = kernel[:, :, ::-1]
            names = [f"{layer}_W_1:0", f"{layer}_b_1:0"]
            if nested:
                names = [f"{layer}/kernel:0", f"{layer}/bias:0"]
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            group[names[0]], group[names[1]] = kernel, bias
        for layer in ("input_1", "flatten", *(f"block{i}_pool" for i in range(1, 6))):
            file.create_group(layer).attrs["weight_names"] = np.array([], "S")
        file.attrs["layer_names"] = [name.encode() for name in file]


def write(folder, form, weights):
    """Write a file of weights; returns what is given to read_weights()."""
    path = folder / {"V1": "vgg_16.ckpt", "V2": "v2.ckpt", "npz": "w.npz"}.get(form, "w.h5")
    if form == "V1":
        vgg16_files.write_v1_checkpoint(path, weights)
    elif form == "V2":
        names = list(weights)
        tf.raw_ops.SaveV2(
            prefix=str(path),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=list(weights.values()),
        )
    elif form == "npz":
        np.savez(path, **weights)
    elif form in SAVED:  # by Keras itself; with an optimizer that has a state for every weight
        path = folder / form
        first = {FIRST_KERNEL: weights[FIRST_KERNEL][:, :, ::-1]}
        model = small_keras(weights | first, form.partition(".")[0])
        model.compile("adam")
        model.optimizer.build(model.trainable_variables)
        (model.save_weights if "weights" in form else model.save)(path)
    else:
        write_keras(path, weights, nested=form == "h5 nested")
    return path


def without_dense(weights):
    return {name: array for name, array in weights.items() if "/fc" not in name}


def error_of(path, config=SMALL):
    """The text of the WeightsError that the file gives. Any other exception fails the test."""
    return one_line_of(WeightsError, vgg16_files.read, path, config)


def logits_of(weights, images):
    return vgg16.VGG16(weights, SMALL)(vgg16.preprocess(images, 64)).numpy()


def small_keras(weights, names="numbers"):
    """The network of SMALL or BLOCKS, built from Keras' layers with the same weights.

    Layers have the numbers that Keras gives them, from 8 on; or the names that they have in Keras'
    own VGG16; or names in the wrong order of the alphabet.
    """
    layers = tf.keras.layers
    tf.keras.backend.clear_session()
    for _ in range(8 if names == "numbers" else 0):
        layers.Conv2D(1, 1), layers.Dense(1)
    pairs, stack = keras_layers(weights), [tf.keras.Input((64, 64, 3))]
    for number, (name, (kernel, _)) in enumerate(pairs.items()):
        given = {"numbers": None, "names": name, "backwards": f"layer{99 - number}"}[names]
        activation = None if name == "predictions" else "relu"
        if name == "fc1":
            stack.append(layers.Flatten())
        if kernel.ndim == 4:
            more = {"padding": "same", "activation": activation, "name": given}
            stack.append(layers.Conv2D(kernel.shape[-1], 3, **more))
        else:
            stack += [layers.Dropout(0.1)] * (activation is None)  # it has a state, too
            stack.append(layers.Dense(kernel.shape[-1], activation, name=given))
        if name in ("block1_conv2", "block2_conv2") or name.endswith("_conv3"):
            stack.append(layers.MaxPooling2D())
    model = tf.keras.Sequential(stack)
    for layer, pair in zip((x for x in model.layers if x.weights), pairs.values(), strict=True):
        layer.set_weights(pair)
    return model


# --- The network ----------------------------------------------------------------------------------


def test_new_top_layer(weights, images):
    network = vgg16.VGG16(weights, SMALL)
    inputs = vgg16.preprocess(images, 64)
    features = network.features(inputs)
    kernel = np.random.default_rng(2).normal(size=(SMALL.dense, 4)).astype(np.float32)
    bias = np.arange(4, dtype=np.float32)
    network.replace_top(kernel, bias)
    np.testing.assert_allclose(network(inputs), features @ kernel + bias, rtol=1e-5, atol=1e-4)
    assert np.array_equal(network.features(inputs), features)
    conv5, logits = network.upper_layers(network.lower_blocks(inputs))
    assert np.array_equal(logits, network(inputs))
    assert conv5.shape == (3, 4, 4, 16)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_the_blocks_alone(weights, images, dtype):
    """Features are what NumPy pools; they come with every image size; a top layer can be put on."""
    blocks = without_dense(weights)
    everything = ("mean4", "max4", "mean5", "max5")
    for size in (48, 80):
        config = vgg16.Config.of(blocks, size, everything)
        assert (config, config.features) == (vgg16.Config(0, 2, 0, size, everything), 64)
        network, inputs = vgg16.VGG16(blocks, config, dtype), vgg16.preprocess(images, size)
        features, pool4 = network.features(inputs), network.lower_blocks(inputs)
        with pytest.raises(ValueError, match="no top layer"):
            network(inputs)
        network.replace_top(np.eye(64, 3, dtype=np.float32), np.zeros(3, np.float32))
        assert network.config.classes == 3
        assert list(network.weights) == list(network.config.shapes())
        conv5, logits = network.upper_layers(pool4)
        for array, side in ((pool4, size // 16), (conv5, size // 16)):
            assert (array.shape, array.dtype) == ((3, side, side, 16), dtype)
        last = [tf.cast(array, tf.float32).numpy() for array in (pool4, conv5)]
        expected = [pooled for x in last for pooled in (x.mean(axis=(1, 2)), x.max(axis=(1, 2)))]
        np.testing.assert_allclose(features, np.concatenate(expected, axis=1), rtol=1e-5)
        assert features.dtype == logits.dtype == tf.float32
        np.testing.assert_allclose(logits, features[:, :3], rtol=1e-5)
        np.testing.assert_allclose(network(inputs), logits, rtol=1e-5)


def test_quarters_are_the_means_of_each_quarter():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    expected = x.reshape(2, 2, 2, 2, 3, 3).mean(axis=(2, 4)).reshape(2, 12)
    np.testing.assert_allclose(vgg16.quarters(x, [1, 2]), expected, rtol=1e-5)
    config = vgg16.Config(classes=0, width=2, dense=0, pooling=("quarters4", "mean5"))
    assert config.features == 5 * 16


def test_dropout_only_in_training(images):
    config = vgg16.Config(classes=7, width=2, dense=64, image_size=64)
    network = vgg16.VGG16(weights_with_biases(config), config)
    inputs = vgg16.preprocess(images, 64)
    tf.random.set_seed(0)
    assert np.array_equal(network(inputs), network(inputs))
    assert np.array_equal(network.features(inputs), network.features(inputs))
    assert not np.array_equal(network.features(inputs, training=True), network.features(inputs))
    assert not np.array_equal(network(inputs, training=True), network(inputs, training=True))


def test_bfloat16_is_close_and_its_top_layer_float32(weights, images):
    network = vgg16.VGG16(weights, SMALL, tf.bfloat16)
    inputs = vgg16.preprocess(images, 64)
    exact = vgg16.VGG16(weights, SMALL)(inputs).numpy()
    logits = network(inputs)
    assert network.features(inputs).dtype == tf.bfloat16
    assert logits.dtype == tf.float32
    # bfloat16 keeps 8 bits; 15 layers, each rounding once
    np.testing.assert_allclose(logits, exact, rtol=0, atol=0.05 * np.abs(exact).max())


def test_what_names_features_depends_on_all_below_the_top_layer(weights):
    source = vgg16.feature_source(weights, SMALL, tf.float32)
    other = {name: weights[name] for name in reversed(weights)}
    other["vgg_16/fc8/biases"] = weights["vgg_16/fc8/biases"] + 1
    assert vgg16.feature_source(other, SMALL, tf.float32) == source
    changed = {**weights, BIASES: weights[BIASES] + np.float32(1e-6)}
    renamed = {name.replace("fc6", "fc9"): array for name, array in weights.items()}
    for arrays, dtype in ((changed, tf.float32), (renamed, tf.float32), (other, tf.bfloat16)):
        assert vgg16.feature_source(arrays, SMALL, dtype) != source
    kinds = [(48, ("mean4",)), (80, ("mean4",)), (48, ("max4",)), (48, ("mean4", "max4"))]
    configs = [vgg16.Config(0, 2, 0, *kind) for kind in kinds]
    blocks = without_dense(weights)
    sources = [vgg16.feature_source(blocks, config, tf.float32) for config in configs]
    assert all(sources.count(source) == 1 for source in sources)


# --- Formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [True, False], ids=["whole", "blocks"])
@pytest.mark.parametrize("form", FORMATS + SAVED)
def test_read_gives_back_what_was_written(tmp_path, form, top, weights):
    weights = weights if top else without_dense(weights)
    read = vgg16_files.read(write(tmp_path, form, weights))
    config = vgg16.Config.of(read, 48, ("mean4", "max5"))
    assert config == (SMALL if top else BLOCKS)
    assert list(read) == list(config.shapes())
    for name, array in weights.items():
        assert read[name].dtype == np.float32
        assert np.array_equal(read[name], array), name


def test_v1_checkpoint_is_like_tf_slims(tmp_path, weights):
    path = write(tmp_path, "V1", weights)
    assert [file.name for file in tmp_path.iterdir()] == ["vgg_16.ckpt"]  # one file, no .index
    listed = dict(tf.train.list_variables(str(path)))
    assert len(listed) == 34
    expected = {name: list(shape) for name, shape in SMALL.shapes().items()}
    assert listed == {**expected, "vgg_16/mean_rgb": [3], "global_step": []}
    types = tf.train.load_checkpoint(str(path)).get_variable_to_dtype_map()
    assert types.pop("global_step") == tf.int64
    assert set(types.values()) == {tf.float32}


@pytest.mark.parametrize("form", ["V1", "V2", "npz", "h5", "numbers.keras"])
@pytest.mark.parametrize("name", ["[1] a*b?", "\\ {0} %s ~", "\"'\n😀 ä", os.fsdecode(b"caf\xe9")])
def test_a_path_may_have_any_characters(tmp_path, form, name, weights):
    (tmp_path / "plain").mkdir()
    path = write(tmp_path / "plain", form, weights)
    folder = (tmp_path / "plain").rename(tmp_path / name)
    for file in folder.glob(f"{path.name}*"):
        file.rename(folder / f"{name}{file.name}")
    read = vgg16_files.read(folder / f"{name}{path.name}")
    assert np.array_equal(read[BIASES], weights[BIASES])


def test_v2_checkpoint_by_prefix_or_either_file(tmp_path, weights):
    prefix = write(tmp_path, "V2", weights)
    assert not prefix.exists()
    for suffix in ("", ".index", ".data-00000-of-00001"):
        path = tmp_path / f"v2.ckpt{suffix}"
        assert np.array_equal(vgg16_files.read(path)[BIASES], weights[BIASES])
    (tmp_path / "v2.ckpt.index").unlink()
    assert f"{prefix}.index beside it" in error_of(path)


def test_keras_file_is_for_blue_green_red(tmp_path, weights, images):
    """Keras' own use of its file, BGR images, gives the logits that ours gives on RGB."""
    path = write(tmp_path, "h5", weights)
    with h5py.File(path) as file:
        kernel = file["block1_conv1/block1_conv1_W_1:0"][()]
        assert file["fc1/fc1_W_1:0"].shape == (2 * 2 * 16, 8)  # in the published file (25088, 4096)
    model = small_keras({**weights, "vgg_16/conv1/conv1_1/weights": kernel})
    expected = model(vgg16.preprocess(images, 64)[..., ::-1]).numpy()
    logits = logits_of(vgg16_files.read(path, SMALL), images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


# --- What can be wrong ----------------------------------------------------------------------------


def conv(filters=2, **more):
    return tf.keras.layers.Conv2D(filters, 3, padding="same", **more)


OTHERS = {  # layers of other networks, and what is said of them
    "no convolution": (lambda: [tf.keras.layers.Dense(3)], "holds 0 convolutions and 1 dense"),
    "VGG19": (lambda: [conv() for _ in range(16)], "holds 16 convolutions and 0 dense layers"),
    "an own top": (
        lambda: [*(conv() for _ in range(13)), tf.keras.layers.Dense(3)],
        "holds 13 convolutions and 1 dense layers, where VGG16 has 13 and 3, or the 13 alone",
    ),
    "other widths": (
        lambda: [conv() for _ in range(13)],
        "conv2/conv2_1/weights has shape (3, 3, 2, 2), expected (3, 3, 2, 4)",
    ),
    "no biases": (lambda: [conv(use_bias=False)], "holds (3, 3, 3, 2), not a kernel and its bi"),
    "normalised": (
        lambda: [conv(), tf.keras.layers.BatchNormalization()],
        "holds (2,), (2,), (2,), (2,), not a kernel",
    ),
}


@pytest.mark.parametrize("name", ["new.weights.h5", "whole_model.h5", "whole_model.keras"])
@pytest.mark.parametrize("other", OTHERS)
def test_other_networks_of_keras_are_refused(tmp_path, name, other):
    make, words = OTHERS[other]
    model = tf.keras.Sequential([tf.keras.Input((4, 4, 3)), *make()])
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    text = error_of(tmp_path / name, None)
    assert str(tmp_path / name) in text
    assert words in text


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_wrong_is_named(tmp_path, weights, form):
    def told(changed, config=SMALL):
        path = write(tmp_path, form, changed)
        text = error_of(path, config)
        assert str(path) in text
        return text

    size = "conv1_1/weights has shape (3, 3, 3, 2), expected (3, 3, 3, 64)"
    assert size in told(weights, vgg16.Config())
    assert "fc6/weights is missing" in told(without_dense(weights))
    for array, text in (
        (np.zeros(9, np.float32), "has shape (9,), expected (8,)"),
        (np.zeros(8, np.float64), "has dtype float64, expected float32"),
        (np.array([np.nan] * 8, np.float32), "holds values that are not finite"),
    ):
        assert f"{BIASES} {text}" in told({**weights, BIASES: array}, None)
    if not form.startswith("h5"):
        for name in (BIASES, FIRST_KERNEL):
            changed = {n: weights[n] for n in weights if n != name}
            assert f"{name} is missing" in told(changed, None)
        unknown = {**weights, "vgg_16/fc9/biases": np.zeros(3, np.float32)}
        assert "vgg_16/fc9/biases is not a weight of VGG16" in told(unknown)


def test_npz_with_pickles_is_refused(tmp_path, weights):
    trace = tmp_path / "executed"
    array = np.empty(SMALL.classes, object)
    array[:] = [Trap(trace)] * SMALL.classes
    path = write(tmp_path, "npz", {**weights, "vgg_16/fc8/biases": array})
    assert str(path) in error_of(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["vgg_16.ckpt", "w.h5", "w.npz", "w.ckpt.index"])
def test_empty_text_and_truncated_files(tmp_path, weights, name):
    """Cut anywhere, a file is refused, and never takes the process down."""
    form = {"vgg_16.ckpt": "V1", "w.h5": "h5", "w.npz": "npz", "w.ckpt.index": "V2"}[name]
    whole = write(tmp_path, form, weights)
    whole = whole.with_name(f"{whole.name}.index") if form == "V2" else whole
    content = whole.read_bytes()
    cuts = [0, 1, 8, 100, *np.linspace(200, len(content) - 100, 12).astype(int)]
    cuts += [len(content) - n for n in (48, 9, 1)]
    path = tmp_path / f"cut_{name}"
    for damaged in [*(content[:cut] for cut in cuts), b"<html>404</html>" * 100]:
        path.write_bytes(damaged)
        assert f"cut_{name}".removesuffix(".index") in error_of(path)


@pytest.mark.parametrize("form", ["V1", "V2", "npz"])
def test_changed_bytes_are_noticed(tmp_path, form):
    """These formats have checksums. The file is large enough to consist of several blocks."""
    config = vgg16.Config(classes=7, width=16, dense=64, image_size=64)
    path = write(tmp_path, form, vgg16.random_weights(config, 0))
    file = tmp_path / "v2.ckpt.data-00000-of-00001" if form == "V2" else path
    content = file.read_bytes()
    rng = np.random.default_rng(3)
    for position in rng.integers(1000, len(content) - 20_000, 5):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        assert str(path) in error_of(path, config)


@pytest.mark.parametrize("suffix", [".ckpt", ".h5", ".npz", ".index"])
def test_no_such_file(tmp_path, suffix):
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    for path in (folder, tmp_path / f"missing{suffix}", tmp_path / ("long" * 100 + suffix)):
        text = error_of(path)
        assert text.startswith("there is no file of weights at ")
        assert str(path).removesuffix(".index") in text


# --- Parts, and what was published ----------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, BLOCKS], ids=["whole", "blocks"])
def test_trained_layers_come_back_with_the_rest(tmp_path, weights, images, config):
    weights = weights if config.dense else without_dense(weights)
    base, part = write(tmp_path, "npz", weights), tmp_path / "part.npz"
    more = config.image_size, config.pooling
    network, source = vgg16_files.load(base, tf.bfloat16, ("conv5",), *more)
    rng = np.random.default_rng(4)
    network.replace_top(rng.normal(size=(config.features, 3)), np.zeros(3))
    for weight in network.weights_of(["conv5"]).values():
        weight.assign_add(rng.normal(0, 0.01, weight.shape))
    names = ("a", "ä", "c")
    vgg16_files.write_part(part, network, ("conv5", "fc8"), base, source, names)
    again, classes = vgg16_files.read_with_part(part, None, tf.bfloat16)
    assert classes == names
    assert again.config == network.config
    inputs = vgg16.preprocess(images, config.image_size)
    assert np.array_equal(again(inputs), network(inputs))


def test_which_file_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "download", lambda remote, folder: folder / remote.path)

    def find(weights, data="full"):
        return pretrained.find_vgg16(weights, data, tmp_path, lambda *given: given)

    folder = tmp_path / "vgg16"
    folder.mkdir()
    (folder / "vgg_16.ckpt").touch()
    assert find("full") == folder / "vgg_16.ckpt"
    assert find("blocks") == find("blocks", "sample") == folder / pretrained.BLOCKS
    assert find("./blocks", "sample") == Path("blocks")
    sample = tmp_path / "sample" / "vgg16", drawings.OTHER_KINDS, drawings.drawn_objects
    assert find("full", "sample") == sample
    monkeypatch.setattr(pretrained, "download", lambda *_: pytest.fail("downloads"))
    (folder / pretrained.BLOCKS).touch()  # not as it was published, but there
    assert find("blocks") == folder / pretrained.BLOCKS


DOWNLOADS = ROOT / "datasets" / "downloads"


@pytest.mark.real
@pytest.mark.skipif(
    not (DOWNLOADS / pretrained.VGG16_BLOCKS.path).is_file()
    or not (DOWNLOADS / "cats_dogs" / "train.zip").is_file(),
    reason=f"lay {pretrained.BLOCKS} in datasets/downloads/vgg16, Kaggle's train.zip in cats_dogs",
)
def test_the_published_blocks_see_what_keras_sees():
    path = pretrained.find_vgg16("blocks", "full", DOWNLOADS)
    photographs = cats_dogs.load("full", DOWNLOADS)
    images = read_photographs(photographs, photographs.test[:5], 224)
    network, _ = vgg16_files.load(path, tf.float32, pooling=("mean5",))
    model = tf.keras.applications.VGG16(include_top=False, weights=str(path))
    model = tf.keras.Model(model.input, model.get_layer("block5_conv3").output)
    outputs = model(tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32)))
    expected = outputs.numpy().mean(axis=(1, 2))
    features = network.features(vgg16.preprocess(images, 224))
    assert expected.max() > 1
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4 * expected.max())


# --- Full size ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory):
    """A V1 checkpoint of the published size with random weights, 553 MB; removed afterwards."""
    folder = tmp_path_factory.mktemp("full")
    path = folder / "vgg_16.ckpt"
    vgg16_files.write_v1_checkpoint(path, weights_with_biases(vgg16.Config()))
    yield path
    shutil.rmtree(folder)


@pytest.mark.slow
def test_full_size_against_keras_applications(tmp_path):
    path, expected_weights = tmp_path / "vgg_16.ckpt", weights_with_biases(vgg16.Config())
    vgg16_files.write_v1_checkpoint(path, expected_weights)
    assert len(tf.train.list_variables(str(path))) == 34
    assert 553_000_000 < path.stat().st_size < 554_000_000  # published: 553,436,134
    weights = vgg16_files.read(path, vgg16.Config())
    path.unlink()
    assert all(np.array_equal(weights[name], expected_weights[name]) for name in expected_weights)
    del expected_weights

    rng = np.random.default_rng(4)
    inputs = vgg16.preprocess(rng.integers(0, 256, (2, 32, 32, 3), np.uint8), 224)
    model = tf.keras.applications.VGG16(weights=None, classifier_activation=None)
    for layer, (kernel, bias) in keras_layers(weights).items():
        model.get_layer(layer).set_weights([kernel, bias])
    expected = model(inputs).numpy()
    del model
    logits = vgg16.VGG16(weights, vgg16.Config())(inputs).numpy()
    assert logits.shape == (2, 1000)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
