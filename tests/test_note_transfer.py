"""Checks what note 10 says: formulas, the listing, the tables, and what was measured."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from examples import example11_vgg16_cats_dogs as example11  # noqa: E402
from examples.common import tf  # noqa: E402
from models import vgg16  # noqa: E402

figures = programs.figures("transfer")
GENERATED = ROOT / "docs" / "notes" / "_generated"
SMALL = vgg16.Config(classes=3, width=2, dense=8, image_size=64)


def generated(name, folder=GENERATED):
    """Return what stands in a generated file, without the comment that says what made it."""
    return (folder / f"{name}.md").read_text().split("\n", 2)[2].strip()


def rows(name, folder=GENERATED):
    """Return the rows of a generated table: the text of the first column to that of the others."""
    lines = [line.strip("| ").split(" | ") for line in generated(name, folder).splitlines()]
    return {line[0]: line[1:] for line in lines[2:]}


def numbers(name, folder=GENERATED):
    """Return the first number in each cell of a generated table."""
    return {
        first: [float(cell.replace("\u00a0", " ").split()[0].replace(",", "")) for cell in rest]
        for first, rest in rows(name, folder).items()
    }


@pytest.fixture(scope="module")
def small_network():
    return vgg16.VGG16(vgg16.random_weights(SMALL, seed=0), SMALL)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


# --- What was measured ----------------------------------------------------------------------------


def test_transfer_wins_with_few_images_and_loses_with_many():
    table = numbers("transfer_sizes")
    transfer, scratch, untrained = zip(*table.values(), strict=True)
    assert list(table) == [f"{size:,}" for size in figures.SIZES]
    assert transfer[0] > 2 * scratch[0]
    assert scratch[0] < 20  # ten images: little better than guessing
    assert all(a > b for a, b in zip(transfer[:3], scratch[:3], strict=True))
    assert all(a < b for a, b in zip(transfer[4:], scratch[4:], strict=True))
    assert all(a > 2 * b for a, b in zip(transfer, untrained, strict=True))
    assert abs(transfer[3] - scratch[3]) < 5  # hundreds of images: there they cross


def test_the_best_layer_depends_on_the_number_of_images():
    table = numbers("transfer_layers")
    assert list(table) == list(figures.LAYERS)
    ten, hundred, thousand, untrained = np.array(list(table.values())).T
    assert set(np.argsort(ten)[-2:]) == {6, 7}  # fc6 and fc7
    assert set(np.argsort(hundred)[-3:]) == {5, 6, 7}
    assert figures.LAYERS[thousand.argmax()] == "block 4"
    assert untrained.max() < thousand[2]
    assert figures.LAYERS[untrained.argmax()] == "block 3"  # and less from there on
    assert np.all(np.diff(untrained[3:]) < 0)


def test_a_wrong_scale_leaves_a_guess():
    trained, colours, no_mean, unit = (
        value for (value,) in numbers("transfer_preprocessing").values()
    )
    assert trained > 85
    assert trained - 3 < colours < trained
    assert no_mean < colours
    assert unit <= 100 / 20 + 3  # of 20 kinds


def test_tables_that_are_made_at_once_are_those_of_the_code():
    """Where this fails: python docs/figures/transfer.py."""
    assert generated("transfer_cache") == figures.cache_table()
    assert generated("transfer_epoch") == figures.benchmark_text()


@pytest.mark.slow
def test_all_is_measured_again(tmp_path):
    """Two minutes; on another processor the digits may differ a little."""
    command = [sys.executable, ROOT / "docs" / "figures" / "transfer.py", "--folder", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("transfer_sizes", "transfer_layers", "transfer_preprocessing"):
        found = numbers(name, tmp_path / "notes" / "_generated")
        expected = numbers(name)
        assert list(found) == list(expected)
        assert np.allclose(list(found.values()), list(expected.values()), atol=4), name


# --- Features, cache ------------------------------------------------------------------------------


def test_layer_outputs_are_those_of_the_network(small_network, images):
    found = figures.layer_outputs(small_network, images)
    prepared = vgg16.preprocess(images, SMALL.image_size)
    assert list(found) == list(figures.LAYERS)
    block4 = small_network.lower_blocks(prepared).numpy().reshape(len(images), -1)
    assert np.allclose(found["block 4"], block4, rtol=1e-4, atol=1e-4)
    assert np.allclose(found["fc7"], small_network.features(prepared), rtol=1e-4, atol=1e-4)


def test_subsets_are_balanced_and_differ():
    labels = np.random.default_rng(0).permutation(np.arange(500) % 10)
    first, second = (figures.subset(labels, 100, seed) for seed in (0, 1))
    assert np.bincount(labels[first]).tolist() == [10] * 10
    assert len(set(first)) == 100
    assert set(first) != set(second)


def test_axes_along_the_training_features_change_no_answer():
    """Fewer unknowns, the same regression: against one that is fitted without that."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 200)) + 0.3 * labels[:, None]
    train, test = (features[:30], labels[:30]), (features[30:], labels[30:])
    mean, scale = train[0].mean(axis=0), (train[0].std(axis=0) + 1e-6) * np.sqrt(200)
    plain = LogisticRegression(C=figures.INVERSE_PENALTY, max_iter=2000, tol=1e-8)
    plain.fit((train[0] - mean) / scale, train[1])
    expected = plain.score((test[0] - mean) / scale, test[1])
    assert figures.linear_accuracy(train, test) == expected


def test_sizes_in_the_cache(small_network, images):
    """What the table counts is what example 11 stores: float16, two views."""
    sizes = numbers("transfer_cache")
    config = vgg16.Config()
    for layer, stride in (("pool4", 16), ("fc7", None)):
        stored = example11.fixed_part(small_network, images, layer)
        assert stored.dtype == tf.float16
        if stride:
            assert stored.shape[1:] == (64 // stride, 64 // stride, 8 * SMALL.width)
            count = (config.image_size // stride) ** 2 * 8 * config.width
        else:
            assert stored.shape[1:] == (SMALL.dense,)
            count = config.dense
        assert sizes[layer][1:3] == [2 * count, 4 * count]
    assert 400_000 < sizes["pool4"][2] < 410_000  # the 0.4 MB of example 11's --fine-tune
    assert sizes["pool4"][4] > 90  # blocks 1 to 4 are nine tenths of the work


def test_an_epoch_on_stored_features_is_a_fraction_of_a_second():
    found = figures.benchmark()
    assert found["seconds"] < 1
    for dtype in ("float32", "bfloat16"):
        whole = found["images"] / found[dtype]
        assert whole > 60
        assert whole / found["seconds"] == pytest.approx(found[f"{dtype}_ratio"], rel=0.15)


# --- Preparation, fine-tuning ---------------------------------------------------------------------


def test_preparation_against_keras(images):
    ours = vgg16.preprocess(images, 32).numpy()
    keras = tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    assert np.allclose(figures.swapped(images, 32), keras, atol=0.01)
    assert np.allclose(ours[..., ::-1], keras, atol=0.01)
    assert np.allclose(figures.no_mean(images, 32), images, atol=1e-3)
    assert np.allclose(figures.unit_scale(images, 32), images / 255, atol=1e-5)


def test_rates_of_example_11():
    assert pytest.approx(example11.LEARNING_RATE / 50) == example11.FINE_TUNE_RATE


def test_a_small_step_is_lost_in_bfloat16():
    weight = tf.constant(0.02)
    step = tf.constant(example11.FINE_TUNE_RATE)
    assert weight - step != weight
    low = tf.cast(weight, tf.bfloat16)
    assert low - tf.cast(step, tf.bfloat16) == low


def listing():
    text = (ROOT / "docs" / "notes" / "10_transfer_learning.md").read_text()
    (code,) = (part.partition("```")[0] for part in text.split("```python\n")[1:])
    names = {}
    exec(code, names)
    return names["thaw"]


def thaw_all(base):
    base.trainable = True


def freeze_all(base):
    base.trainable = False


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
    ("prepare", "new_top", "averages_kept", "weights_kept"),
    [
        (freeze_all, functional, True, True),
        (thaw_all, functional, False, False),  # the trap
        (thaw_all, not_in_training, False, False),  # Keras 3 overrules training=False
        (thaw_all, OwnCall, True, False),
        (listing(), functional, True, False),
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
    before = norm.moving_mean.numpy(), norm.moving_variance.numpy(), dense.kernel.numpy()
    x = np.random.default_rng(0).normal(3, 2, (32, 5)).astype(np.float32)
    network.fit(x, np.arange(32) % 3, batch_size=8, verbose=0)
    now = norm.moving_mean.numpy(), norm.moving_variance.numpy(), dense.kernel.numpy()
    same = [np.array_equal(*pair) for pair in zip(before, now, strict=True)]
    assert same == [averages_kept, averages_kept, weights_kept]


# --- Grad-CAM -------------------------------------------------------------------------------------


def test_grad_cam_is_the_formula(small_network):
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    maps, _ = example11.grad_cam(small_network, images)
    pool4 = small_network.lower_blocks(vgg16.preprocess(images, 64))
    conv5, logits = example11.upper_part(small_network, pool4)
    likeliest = logits.numpy().argmax(axis=1)
    with tf.GradientTape() as tape:
        tape.watch(conv5)
        features = small_network.hidden(vgg16.pool(conv5))
        scores = tf.gather(small_network.dense("fc8", features), likeliest, axis=1, batch_dims=1)
    gradient = tape.gradient(scores, conv5).numpy()
    places = gradient.shape[1] * gradient.shape[2]
    alpha = gradient.sum(axis=(1, 2)) / places
    expected = np.maximum(0, np.einsum("nk,nijk->nij", alpha, conv5.numpy()))
    expected /= expected.max(axis=(1, 2), keepdims=True) + 1e-9
    assert np.allclose(maps, expected, atol=1e-4)
