"""Checks example 06: its convolution, batch normalisation, loss, update rule, whitening and
augmentation against Keras and NumPy; that it learns, continues, and ends with the very same weights
after Ctrl-C and kills at bad moments as without them; and what it says when something is wrong.
"""

import functools
import json
import os
import shutil
import signal
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import checkpoint_folder, error_of, final_state, run, start, status, without_pictures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import common  # noqa: E402  # isort: skip  # before TensorFlow: silences it
import tensorflow as tf  # noqa: E402

from datasets import cifar10  # noqa: E402
from examples import example06_cifar10_cnn_nn as example06  # noqa: E402

CHANNELS = (4, 8, 8)
BATCH = 16


@pytest.fixture(scope="module")
def data(sample_dir):
    return cifar10.load("sample", sample_dir)


@pytest.fixture
def network(data):
    return example06.Network(data.train_images[:300], CHANNELS, 10, tf.float32, seed=3)


# --- Parity: the model ----------------------------------------------------------------------------


def keras_twin(network):
    """Return a Keras model of the same shape with the same weights; it takes centred images."""
    layers = tf.keras.layers
    conv = functools.partial(layers.Conv2D, padding="same", use_bias=False)
    model = tf.keras.Sequential([layers.Input((32, 32, 3)), conv(12, 2, name="whitening")])
    for i, kernel in enumerate(network.kernels):
        model.add(conv(kernel.shape[-1], 3, name=f"convolution{i}"))
        if i % 2 == 0:
            model.add(layers.MaxPool2D())
        model.add(
            layers.BatchNormalization(
                momentum=example06.KEEP, epsilon=example06.EPSILON, scale=False, name=f"norm{i}"
            )
        )
        model.add(layers.ReLU())
    model.add(layers.GlobalMaxPool2D())
    model.add(layers.Dense(10, use_bias=False, name="head"))
    model.get_layer("whitening").set_weights([network.whitening])
    for i, kernel in enumerate(network.kernels):
        model.get_layer(f"convolution{i}").set_weights([kernel.numpy()])
        statistics = network.offsets, network.moving_means, network.moving_variances
        model.get_layer(f"norm{i}").set_weights([values[i].numpy() for values in statistics])
    model.get_layer("head").set_weights([network.head.numpy()])
    model.get_layer("whitening").trainable = False
    return model


def randomise(network):
    """Give all that starts as zeros and ones other values, so that a mistake there shows."""
    rng = np.random.default_rng(0)
    for kernel in network.kernels:
        kernel.assign_add(rng.normal(0, 0.1, kernel.shape))
    for values in (*network.offsets, *network.moving_means):
        values.assign(rng.normal(0, 0.5, values.shape))
    for values in network.moving_variances:
        values.assign(rng.uniform(0.5, 2, values.shape))


def test_logits_equal_those_of_keras(network, data):
    randomise(network)
    images = data.test_images[:BATCH]
    expected = keras_twin(network)(images - network.mean, training=False) * example06.LOGIT_SCALE
    logits = network(images, training=False)
    assert logits.shape == (BATCH, 10)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_convolution_equals_a_sum_over_the_window(network):
    rng = np.random.default_rng(1)
    image, kernel = rng.normal(size=(1, 5, 6, 2)), rng.normal(size=(3, 3, 2, 4))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.einsum("nyxcij,ijco->nyxo", windows, kernel)
    result = network.convolution(image.astype(np.float32), kernel.astype(np.float32))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
def test_convolution_by_hand_has_the_gradients_of_tensorflow_s(dtype):
    rng = np.random.default_rng(6)
    x = tf.constant(rng.normal(0, 1, (5, 4, 3, 6)), tf.float32)
    kernel = tf.constant(rng.normal(0, 1, (3, 3, 6, 7)), tf.float32)
    weights = tf.constant(rng.normal(0, 1, (5, 4, 3, 7)), tf.float32)

    def results(convolve, dtype):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            out = tf.cast(convolve(tf.cast(x, dtype), tf.cast(kernel, dtype)), tf.float32)
            loss = tf.reduce_sum(weights * out)
        return [out, *tape.gradient(loss, [x, kernel])]

    expected = results(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"), tf.float32)
    ours = results(tf.function(example06.convolution_by_hand), dtype)
    error = 1e-5 if dtype == tf.float32 else 0.02  # of the largest value
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=error * np.abs(other).max())


def test_batch_normalisation_in_training_and_inference(network):
    rng = np.random.default_rng(2)
    offset, batches = rng.normal(size=4), rng.normal(3, 2, (5, 8, 6, 6, 4)).astype(np.float32)
    network.offsets[0].assign(offset)
    moving_mean, moving_variance = np.zeros(4), np.ones(4)
    for x in batches:
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        expected = (x - mean) / np.sqrt(variance + example06.EPSILON) + offset
        result = network.batch_normalisation(x, 0, training=True)
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)
        # The moving average takes the unbiased variance: divided by N - 1, not by N.
        unbiased = x.var(axis=(0, 1, 2), ddof=1)
        keep = example06.KEEP
        moving_mean = keep * moving_mean + (1 - keep) * mean
        moving_variance = keep * moving_variance + (1 - keep) * unbiased
    np.testing.assert_allclose(network.moving_means[0], moving_mean, rtol=1e-4)
    np.testing.assert_allclose(network.moving_variances[0], moving_variance, rtol=1e-4)
    x = batches[0]
    expected = (x - moving_mean) / np.sqrt(moving_variance + example06.EPSILON) + offset
    result = network.batch_normalisation(x, 0, training=False)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(network.moving_means[0], moving_mean, rtol=1e-4)  # unchanged


def test_an_image_s_logits_do_not_depend_on_its_neighbours(network, data):
    randomise(network)
    images = data.test_images[:7]
    together = example06.predict(network, images)
    np.testing.assert_allclose(
        example06.predict(network, images, batch_size=3), together, rtol=1e-4, atol=1e-5
    )
    alone = example06.predict(network, images[4:5])
    np.testing.assert_allclose(alone[0], together[4], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32(network, data):
    other = example06.Network(data.train_images[:300], CHANNELS, 10, tf.bfloat16, seed=3)
    images = data.test_images[:BATCH]
    logits, expected = (n(images, training=True).numpy() for n in (other, network))
    assert logits.dtype == np.float32
    assert {variable.dtype for variable in other.variables} == {tf.float32}
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


# --- Parity: loss and update rule -----------------------------------------------------------------


def test_loss_equals_keras_and_the_formula():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(0, 5, (9, 10)).astype(np.float32), rng.integers(0, 10, 9)
    loss = example06.mean_loss(tf.constant(logits), labels)
    keras = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=example06.LABEL_SMOOTHING
    )
    np.testing.assert_allclose(loss, keras(np.eye(10)[labels], logits), rtol=1e-5)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    smoothing = example06.LABEL_SMOOTHING
    right = log_probabilities[range(9), labels]
    formula = -((1 - smoothing) * right + smoothing * log_probabilities.mean(axis=1)).mean()
    np.testing.assert_allclose(loss, formula, rtol=1e-5)


def test_loss_of_huge_logits_is_finite():
    logits = tf.constant([[1e4] + [-1e4] * 9])
    assert np.isfinite(example06.mean_loss(logits, [3]))


def orthogonal_by_decomposition(matrix):
    """Return what `orthogonal` approaches its goal with, by way of the singular values."""
    u, s, vt = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


@pytest.mark.parametrize("shape", [(108, 32), (64, 64), (40, 70)])
def test_orthogonal_changes_the_singular_values_alone(shape):
    matrix = np.random.default_rng(8).normal(0, 1e-3, shape).astype(np.float32)
    result = example06.orthogonal(tf.constant(matrix), tf.float32)
    np.testing.assert_allclose(result, orthogonal_by_decomposition(matrix), rtol=0, atol=1e-4)
    rough = example06.orthogonal(tf.constant(matrix), tf.bfloat16)
    assert rough.dtype == tf.float32
    np.testing.assert_allclose(rough, result, rtol=0, atol=0.02)


def test_orthogonal_makes_directions_about_equally_long():
    rng = np.random.default_rng(9)
    lengths = np.geomspace(1, 1e-2, 20)
    u, v = (np.linalg.qr(rng.normal(size=size))[0] for size in ((180, 20), (20, 20)))
    result = example06.orthogonal(tf.constant((u * lengths) @ v.T, tf.float32), tf.float32)
    found = np.diag(u.T @ result.numpy() @ v)
    np.testing.assert_allclose(result, (u * found) @ v.T, rtol=0, atol=1e-5)
    assert found.min() > 0.2
    assert found.max() < 1.3


def test_orthogonal_of_zeros_is_zeros():
    assert not np.any(example06.orthogonal(tf.zeros([9, 4]), tf.float32))


def test_five_training_steps_equal_keras(network, data, monkeypatch):
    monkeypatch.setattr(example06, "augment", lambda images, *_: images)
    twin = keras_twin(network)
    rate, decay, smoothing = 0.005, example06.WEIGHT_DECAY, example06.LABEL_SMOOTHING
    sgd = functools.partial(tf.keras.optimizers.SGD, momentum=example06.MOMENTUM, nesterov=True)
    offsets = [v for v in twin.trainable_variables if v.name == "beta"]
    *kernels, head = [v for v in twin.trainable_variables if v.name != "beta"]
    assert (len(offsets), len(kernels), head.shape) == (6, 6, (8, 10))
    for_head, for_offsets = sgd(rate * example06.HEAD_RATE), sgd(rate * example06.OFFSET_RATE)
    velocities = [0.0] * len(kernels)
    cross_entropy = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing
    )
    training = example06.Training(network, epochs=1)
    losses = []
    for step in range(5):
        images = data.train_images[step * BATCH : (step + 1) * BATCH]
        labels = data.train_labels[step * BATCH : (step + 1) * BATCH]
        flags = np.zeros(BATCH, np.float32)
        training.train_step(images, labels, flags, tf.constant(rate), tf.constant([0, step]), 32)
        with tf.GradientTape() as tape:
            logits = twin(images - network.mean, training=True) * example06.LOGIT_SCALE
            loss = cross_entropy(np.eye(10)[labels], logits)
            total = loss + decay * tf.nn.l2_loss(head.value)
        gradients = tape.gradient(total, [v.value for v in (head, *offsets, *kernels)])
        for_head.apply(gradients[:1], [head])
        for_offsets.apply(gradients[1:7], offsets)
        for i, (kernel, gradient) in enumerate(zip(kernels, gradients[7:], strict=True)):
            weights, gradient = kernel.numpy(), gradient.numpy()
            velocities[i] = example06.MOMENTUM * velocities[i] + gradient
            direction = gradient + example06.MOMENTUM * velocities[i]
            matrix = direction.reshape(-1, kernel.shape[-1])
            direction = orthogonal_by_decomposition(matrix).reshape(kernel.shape)
            weights *= np.sqrt(kernel.shape[-1]) / np.linalg.norm(weights)
            kernel.assign(weights - rate * direction)
        losses.append(float(loss))
    assert int(training.step) == 5
    np.testing.assert_allclose(training.sums[0] / 5, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(network.head, twin.get_layer("head").kernel, rtol=1e-3, atol=1e-5)
    kept = example06.KEEP**5
    for i, size in enumerate((16, 16, 8, 8, 4, 4)):
        kernel = twin.get_layer(f"convolution{i}").kernel
        np.testing.assert_allclose(network.kernels[i], kernel, rtol=1e-3, atol=1e-5)
        norm = twin.get_layer(f"norm{i}")
        np.testing.assert_allclose(network.offsets[i], norm.beta, rtol=1e-3, atol=1e-5)
        means = norm.moving_mean
        np.testing.assert_allclose(network.moving_means[i], means, rtol=1e-3, atol=1e-5)
        # Keras divides by N; the fused operation by N - 1. Both began with a variance of one.
        count = BATCH * size * size
        variances = (norm.moving_variance - kept) * count / (count - 1) + kept
        np.testing.assert_allclose(network.moving_variances[i], variances, rtol=1e-3, atol=1e-5)


def test_learning_rate_rises_and_falls():
    rates = [example06.one_cycle(done) for done in np.linspace(0, 1, 101)]
    peak = round(100 * example06.WARM_UP)
    assert rates[0] == rates[-1] == 0
    assert max(rates) == rates[peak] == pytest.approx(1)
    assert np.all(np.diff(rates[: peak + 1]) > 0)
    assert np.all(np.diff(rates[peak:]) < 0)


# --- Parity: whitening, augmentation, pictures ----------------------------------------------------


def test_whitened_patches_are_uncorrelated(data):
    images = data.train_images[:1000]
    mean, kernels = example06.whitening_kernels(images)
    assert kernels.shape == (2, 2, 3, 12)
    assert mean.dtype == kernels.dtype == np.float32
    np.testing.assert_array_equal(mean, np.rint(images.mean(axis=(0, 1, 2))))
    patches = tf.nn.conv2d(images - mean, kernels, strides=1, padding="VALID")
    patches = patches.numpy().reshape(-1, 12)
    covariance = np.cov(patches, rowvar=False)
    # A little below one where the variance is not large beside the constant that is added to it.
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.05)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)


@pytest.mark.parametrize("size", [32, 28])
@pytest.mark.parametrize("mirrored", [0, 1])
def test_augmentation_makes_every_shift_or_crop_and_nothing_else(mirrored, size):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    count, shift = 2000, example06.SHIFT
    images = np.repeat(image[None], count, axis=0)
    flags = np.full(count, mirrored, np.float32)
    results = example06.augment(tf.constant(images), flags, tf.constant([1, 2]), 0, size).numpy()
    assert results.dtype == np.uint8
    if size == 32:
        # The border's reflection repeats the pixel there (c b a | a b c): NumPy's "symmetric".
        image = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), "symmetric")
    places = range(5)  # in both cases: five places for a row, five for a column
    expected = [image[y : y + size, x : x + size] for y in places for x in places]
    if mirrored:
        expected = [np.fliplr(picture) for picture in expected]
    kinds = {picture.tobytes(): i for i, picture in enumerate(expected)}
    found = np.bincount([kinds[result.tobytes()] for result in results], minlength=25)
    assert len(kinds) == 25
    assert found.min() > count / 25 / 2  # 80 of each are expected


def test_augmentation_mirrors_the_images_that_it_is_told_to():
    rng = np.random.default_rng(6)
    images = tf.constant(rng.integers(0, 256, (6, 32, 32, 3), np.uint8))
    flags = np.array([0, 1, 0, 0, 1, 1], np.float32)

    def augment(flags, seed):
        return example06.augment(images, flags, tf.constant(seed), 0, 32).numpy()

    results = augment(flags, [1, 2])
    plain, all_mirrored = (augment(np.full(6, flag, np.float32), [1, 2]) for flag in (0, 1))
    assert np.array_equal(plain, all_mirrored[:, :, ::-1])  # the shifts depend on the seed alone
    assert np.array_equal(results, np.where(flags[:, None, None, None] == 1, all_mirrored, plain))
    assert not np.array_equal(results, augment(flags, [1, 3]))


def test_kernels_drawn_are_those_of_whitening_and_first_layer_together(
    network, monkeypatch, tmp_path
):
    randomise(network)
    drawn = []

    def keep(images, path, *_):
        drawn.append(images)
        return path

    monkeypatch.setattr(common, "plot_images", keep)
    example06.plot_kernels(network, tmp_path / "kernels.png")
    kernels = drawn[0].transpose(1, 2, 3, 0)  # (4, 4, 3, filters)
    assert kernels.shape == (4, 4, 3, CHANNELS[0])
    assert kernels.min() >= 0
    assert kernels.max() <= 1
    x = np.random.default_rng(7).normal(size=(2, 9, 9, 3)).astype(np.float32)
    conv = functools.partial(tf.nn.conv2d, strides=1, padding="VALID")
    expected = conv(conv(x, network.whitening), network.kernels[0]).numpy()
    result = conv(x, 2 * kernels - 1).numpy()
    # Every kernel is drawn with its largest number at full colour, so only its scale is lost.
    scale = (expected * result).sum(axis=(0, 1, 2)) / (result**2).sum(axis=(0, 1, 2))
    assert np.all(scale > 0)
    np.testing.assert_allclose(result * scale, expected, rtol=1e-3, atol=1e-4)


def test_six_views_are_the_image_moved_by_a_pixel_and_mirrored(monkeypatch, data):
    image, views = data.test_images[:1], []

    def predict(network, images):
        views.append(images[0])
        return np.full((1, 10), len(views), np.float32)

    monkeypatch.setattr(example06, "predict", predict)
    logits = example06.predict_from_six_views(None, image)
    assert logits.shape == (6, 1, 10)
    assert logits[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    inner = image[0, 2:-2, 2:-2]
    expected = set()
    for moved in (-1, 0, 1):
        window = slice(2 + moved, 30 + moved)
        expected |= {(moved, 1), (moved, -1)}
        found = [v for v in views if np.array_equal(v[window, window], inner)]
        found += [v for v in views if np.array_equal(v[window, ::-1][:, window], inner)]
        assert len(found) == 2, f"moved by {moved}"
    assert np.array_equal(views[0], image[0])
    assert np.array_equal(views[1], np.fliplr(image[0]))


@pytest.mark.parametrize("size", [32, 24])
@pytest.mark.parametrize("side", [1, 12, 32])
def test_cutout_hides_a_square_of_that_side_anywhere(side, size):
    images = np.full((3000, 32, 32, 3), 200, np.uint8)
    flags = np.zeros(3000, np.float32)
    out = example06.augment(images, flags, tf.constant([1, 2]), side, size).numpy()
    hidden = out == example06.GREY
    assert np.array_equal(out, np.where(hidden, example06.GREY, 200))
    rows, columns = hidden[..., 0].any(axis=2), hidden[..., 0].any(axis=1)  # (N, size)
    assert np.array_equal(hidden, np.repeat((rows[:, :, None] & columns[:, None])[..., None], 3, 3))
    assert rows.sum(axis=1).max() == columns.sum(axis=1).max() == min(side, size)
    assert rows.sum(axis=1).min() == 1  # the rest of it lies outside
    assert rows.any(axis=0).all()
    assert columns.any(axis=0).all()


# --- A short run on sample data -------------------------------------------------------------------

QUICK = "--data sample --epochs 3 --batch-size 100 --channels 16 32 64"
METRICS = {
    *("test_accuracy", "train_seconds", "total_seconds", "images_per_second", "parameters"),
    *("epochs", "seed", "precision", "data", "command", "versions", "machine", "history"),
}
PICTURES = ("learning_curves", "confusion_matrix", "worst_mistakes", "first_kernels")


@pytest.fixture(scope="module")
def short_run(sample_dir, tmp_path_factory):
    """Return the folder with the results, the metrics and the arguments of one short run."""
    models_dir = tmp_path_factory.mktemp("models")
    arguments = [*QUICK.split(), "--data-dir", str(sample_dir), "--models-dir", str(models_dir)]
    return models_dir / example06.NAME, example06.main(arguments), arguments


def test_it_learns(short_run):
    _, metrics, _ = short_run
    history = metrics["history"]
    assert history["loss"] == sorted(history["loss"], reverse=True)
    assert history["validation_loss"][-1] < history["validation_loss"][0]
    assert metrics["test_accuracy"] > 0.9  # chance is 0.1, a linear classifier stays below 0.6
    assert metrics["test_accuracy_from_one_view"] > 0.9


def test_metrics_are_complete_and_on_disk(short_run):
    folder, metrics, _ = short_run
    assert set(metrics) >= METRICS
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert "sample" in metrics["data"]
    assert metrics["epochs"] == 3
    assert {len(values) for values in metrics["history"].values()} == {3}
    assert metrics["parameters"] == 9 * (
        12 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64
    ) + (2 * (16 + 32 + 64) + 64 * 10)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_not_blank(short_run, name):
    folder, _, _ = short_run
    with Image.open(folder / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 100
    assert pixels.std() > 5


def test_a_second_run_trains_nothing_more(short_run, capsys, monkeypatch):
    folder, metrics, arguments = short_run
    before = {path: path.read_bytes() for path in folder.rglob("ckpt-*")}

    def train_step(*_):
        raise AssertionError("a step of training")

    monkeypatch.setattr(example06.Training, "train_step", train_step)
    again = example06.main([*arguments, "--min-accuracy", "0.5"])
    assert "going on after step 147" in capsys.readouterr().out
    # From the restored weights; the seconds of training are those of the first run.
    for key in ("history", "test_accuracy", "test_accuracy_from_one_view", "train_seconds"):
        assert again[key] == metrics[key], key
    assert {path: path.read_bytes() for path in folder.rglob("ckpt-*")} == before


# --- Stopped in the middle, and continued ---------------------------------------------------------
# Each run is broken in a process of its own, at a moment that the test chooses, and continued here.

TINY = "--data sample --train-images 400 --batch-size 50 --epochs 3 --channels 4 4 8"
STEPS = 8  # in an epoch

BREAK = """
    import contextlib, os, pathlib, signal, sys, threading, time
    sys.path.insert(0, sys.argv[1])
    from examples import common, example06_cifar10_cnn_nn as example06
    import tensorflow as tf

    how, when = sys.argv[2], int(sys.argv[3])
    sys.argv[1:] = sys.argv[4:]

    def kill_when_there_is_a_file(folder):
        while not list(folder.glob(f"ckpt-{when}*")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    def save(manager, save=tf.train.CheckpointManager.save):
        if how == "killed while saving" and int(manager.checkpoint.save_counter) == when - 1:
            folder = pathlib.Path(manager.directory)
            threading.Thread(target=kill_when_there_is_a_file, args=[folder]).start()
            save(manager)
            time.sleep(60)
        return save(manager)

    tf.train.CheckpointManager.save = save

    def train(training, *rest, train=example06.train, ctrl_c=common.ctrl_c):
        @contextlib.contextmanager
        def broken_after_a_step():
            with ctrl_c() as stop_asked:
                yield lambda: break_after_a_step() or stop_asked()

        def break_after_a_step():
            if int(training.step) == when and how == "Ctrl-C":
                os.kill(os.getpid(), signal.SIGINT)
            elif int(training.step) == when and how == "killed":
                threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGKILL)).start()

        common.ctrl_c = broken_after_a_step
        train(training, *rest)

    example06.train = train
    common.run(example06.main)
"""
BREAKS = {  # how, when (the number of the step or of the checkpoint), precision
    "Ctrl-C in the middle of an epoch": ("Ctrl-C", STEPS + 3, "bfloat16"),
    "Ctrl-C after the last step of an epoch": ("Ctrl-C", STEPS, "float32"),
    "killed in the middle of an epoch": ("killed", 2 * STEPS + 2, "bfloat16"),
    "killed while saving": ("killed while saving", 2, "float32"),
    "killed while saving for the first time": ("killed while saving", 1, "float32"),
}


def tiny(sample_dir, models_dir, precision):
    folders = ["--data-dir", str(sample_dir), "--models-dir", str(models_dir)]
    return [*TINY.split(), *folders, "--precision", precision]


def test_the_first_epochs_see_crops_and_the_others_whole_images(sample_dir, tmp_path, monkeypatch):
    sizes = []

    def augment(images, *rest, augment=example06.augment):
        out = augment(images, *rest)
        sizes.append(out.shape[1:3].as_list())  # once for each compilation
        return out

    monkeypatch.setattr(example06, "augment", augment)
    trained = []

    class Recorded(example06.Training):
        def train_step(self, *arguments):
            trained.append(arguments[-1])
            return super().train_step(*arguments)

    monkeypatch.setattr(example06, "Training", Recorded)
    without_pictures(example06.main, *tiny(sample_dir, tmp_path, "float32"), "--epochs", 5)
    assert trained == [24] * 3 * STEPS + [32] * 2 * STEPS
    assert sizes == [[24, 24], [32, 32]]


@pytest.fixture(scope="module")
def uninterrupted(data, sample_dir, tmp_path_factory):
    states = {}
    for precision in ("float32", "bfloat16"):
        models_dir = tmp_path_factory.mktemp(precision)
        arguments = tiny(sample_dir, models_dir, precision)
        metrics = without_pictures(example06.main, *arguments)
        states[precision] = final_state(models_dir), metrics, models_dir
    return states


@pytest.fixture(scope="module")
def broken(data, sample_dir, tmp_path_factory):
    """Return, for each way to break a run: its folder, exit status, output and errors."""
    processes = {}
    for name, (how, when, precision) in BREAKS.items():
        models_dir = tmp_path_factory.mktemp("broken")
        script = ["-c", textwrap.dedent(BREAK), ROOT, how, when]
        process = start(*script, *tiny(sample_dir, models_dir, precision))
        processes[name] = models_dir, process
    results = {}
    for name, (models_dir, process) in processes.items():
        output, errors = process.communicate(timeout=300)
        results[name] = models_dir, process.returncode, output, errors
    return results


def check_continued(models_dir, precision, sample_dir, uninterrupted):
    state, metrics, _ = uninterrupted[precision]
    arguments = tiny(sample_dir, models_dir, precision)
    continued = without_pictures(example06.main, *arguments)
    found = final_state(models_dir)
    assert found.keys() == state.keys()
    assert len(found) > 30
    assert [name for name in state if found[name] != state[name]] == []
    for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert continued["history"][key] == metrics["history"][key], key
    assert continued["test_accuracy"] == metrics["test_accuracy"]


@pytest.mark.parametrize("name", [name for name in BREAKS if name.startswith("Ctrl-C")])
def test_ctrl_c_saves_and_the_same_command_ends_with_the_same_weights(
    name, broken, uninterrupted, sample_dir
):
    models_dir, status, output, errors = broken[name]
    _, when, precision = BREAKS[name]
    assert status == 130, errors
    if when % STEPS:
        assert f"stopped after step {when}; saved " in output
    assert "the same command goes on" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    latest = tf.train.latest_checkpoint(checkpoint_folder(models_dir))
    (step,) = (n for n, _ in tf.train.list_variables(latest) if n.startswith("training/step"))
    assert tf.train.load_variable(latest, step) == when  # nothing of what was reached is lost
    check_continued(models_dir, precision, sample_dir, uninterrupted)


@pytest.mark.parametrize("name", [name for name in BREAKS if name.startswith("killed")])
def test_a_killed_run_ends_with_the_same_weights(name, broken, uninterrupted, sample_dir):
    models_dir, status, _, errors = broken[name]
    assert status == -signal.SIGKILL, errors
    check_continued(models_dir, BREAKS[name][2], sample_dir, uninterrupted)


def test_another_setting_is_another_run(uninterrupted, sample_dir, tmp_path, capsys):
    _, metrics, folder = uninterrupted["float32"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    arguments = tiny(sample_dir, tmp_path, "float32")
    other = without_pictures(example06.main, *arguments, "--seed", 1)
    assert "going on" not in capsys.readouterr().out
    assert other["history"]["loss"] != metrics["history"]["loss"]
    assert len(list((tmp_path / example06.NAME / "checkpoints").iterdir())) == 2


# --- What can go wrong ----------------------------------------------------------------------------


def truncate(folder):
    for path in folder.glob("ckpt-*.data*"):
        os.truncate(path, 100)


def overwrite(folder):
    for path in folder.glob("ckpt-*.data*"):
        content = bytearray(path.read_bytes())
        content[1000:3000] = bytes(2000)
        path.write_bytes(content)


def truncate_index(folder):
    for path in folder.glob("ckpt-*.index"):
        os.truncate(path, 100)


def remove(folder):
    for path in folder.glob("ckpt-*"):
        path.unlink()


def empty_the_list(folder):
    (folder / "checkpoint").write_text("")


@pytest.mark.parametrize("damage", [truncate, overwrite, truncate_index, remove, empty_the_list])
def test_a_damaged_checkpoint_is_one_clear_line(damage, short_run, tmp_path, capsys):
    folder, _, arguments = short_run
    shutil.copytree(folder, tmp_path / example06.NAME)
    arguments = [*arguments, "--models-dir", str(tmp_path)]
    damaged = checkpoint_folder(tmp_path)
    damage(damaged)
    error = error_of(example06.main, capsys, *arguments)
    assert damaged.name in error
    assert "--restart" in error


@pytest.mark.parametrize("damage", [truncate, empty_the_list])
def test_restart_begins_anew(damage, uninterrupted, sample_dir, tmp_path):
    state, _, folder = uninterrupted["float32"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damage(checkpoint_folder(tmp_path))
    _, output = run(example06.main, *tiny(sample_dir, tmp_path, "float32"), "--restart")
    assert "going on" not in output
    assert final_state(tmp_path) == state


@pytest.mark.parametrize(
    "flags",
    [
        *("--epochs 0", "--epochs 1.5", "--batch-size 0", "--batch-size -5", "--train-images 0"),
        *("--channels 8 16", "--channels 0 8 8", "--precision float16", "--data mnist"),
        *("--seed -1", "--seed x", "--nonsense"),
        *("--learning-rate 0", "--learning-rate -1", "--learning-rate nan", "--learning-rate inf"),
    ],
)
def test_wrong_flags_are_status_2(flags, sample_dir, tmp_path, capsys):
    arguments = tiny(sample_dir, tmp_path, "float32")
    code, lines = status(example06.main, capsys, *arguments, *flags.split())
    assert code == 2
    assert flags.split()[0] in lines[-1]
    assert not list(tmp_path.iterdir())


def test_too_few_images_for_a_batch(sample_dir, tmp_path, capsys):
    arguments = [*tiny(sample_dir, tmp_path, "float32"), "--train-images", "49"]
    error = error_of(example06.main, capsys, *arguments)
    assert "49" in error
    assert "--batch-size" in error


def test_below_the_accuracy_asked_for(short_run, capsys):
    _, metrics, arguments = short_run
    error = error_of(example06.main, capsys, *arguments, "--min-accuracy", 1.01)
    assert f"{metrics['test_accuracy']:.4f}" in error
    assert "1.01" in error


def test_a_loss_that_is_no_number(sample_dir, tmp_path, capsys):
    arguments = [*tiny(sample_dir, tmp_path, "float32"), "--learning-rate", "1e30"]
    error = error_of(example06.main, capsys, *arguments)
    assert "nan" in error
    assert "--learning-rate" in error


def test_results_that_cannot_be_written(sample_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example06.Training, "train_step", lambda *_: pytest.fail("trained"))
    occupied = tmp_path / "occupied"
    occupied.touch()
    arguments = tiny(sample_dir, occupied, "float32")
    assert str(occupied) in error_of(example06.main, capsys, *arguments)  # before training


def test_a_full_disk_while_saving(sample_dir, tmp_path, capsys, monkeypatch):
    def save(manager):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\nmore")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", save)
    error = error_of(example06.main, capsys, *tiny(sample_dir, tmp_path, "float32"))
    assert "No space left on device" in error
    assert str(tmp_path) in error


# --- The real images ------------------------------------------------------------------------------

DOWNLOADS = ROOT / "datasets" / "downloads"


@pytest.mark.real
@pytest.mark.skipif(
    not (DOWNLOADS / "cifar10/cifar-10-batches-bin/test_batch.bin").is_file(),
    reason="lay CIFAR-10's files in datasets/downloads/cifar10/cifar-10-batches-bin",
)
def test_it_learns_from_real_photographs(tmp_path):
    flags = "--train-images 2000 --epochs 3 --batch-size 50 --channels 8 16 32"
    metrics = example06.main([*flags.split(), "--models-dir", str(tmp_path)])
    assert metrics["data"] == "CIFAR-10"
    assert metrics["test_accuracy"] > 0.25  # chance is 0.1
