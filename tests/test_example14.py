"""Checks example 14: network, steps and augmentation against Keras and NumPy; runs that stopped."""

import functools

import numpy as np
import pytest
from programs import (
    arguments,
    check_ctrl_c,
    check_stopped,
    final_state,
    start_to_be_killed,
    without_pictures,
)

from datasets import cifar10
from examples import example06_cifar10_cnn_nn as example06
from examples import example14_cifar10_record as example14
from examples.helpers.report import tf
from models import training
from models.normalisation import BatchNormalisation

CHANNELS = (4, 8, 8)
BATCH = 16


@pytest.fixture(scope="module")
def data(sample_dir):
    return cifar10.load("sample", sample_dir)


@pytest.fixture
def network(data):
    return example14.Network(data.train_images[:300], CHANNELS, tf.float32, seed=3)


def keras_twin(network):
    """Return a Keras model of the same shape with the same weights; it takes centred images."""
    layers = tf.keras.layers
    conv = functools.partial(layers.Conv2D, padding="same", use_bias=False)
    model = tf.keras.Sequential([layers.Input((32, 32, 3)), conv(12, 2, trainable=False)])
    weights = [network.whitening]
    for i, (kernel, norm) in enumerate(zip(network.kernels, network.norms, strict=True)):
        model.add(conv(kernel.shape[-1], 3))
        if i % 2 == 0:
            model.add(layers.MaxPool2D())
        model.add(layers.BatchNormalization(momentum=0.6, epsilon=1e-5, scale=False))
        model.add(layers.ReLU())
        weights += [kernel, norm.offset, norm.moving_mean, norm.moving_variance]
    model.add(layers.GlobalMaxPool2D())
    model.add(layers.Dense(10, use_bias=False))
    model.add(layers.Rescaling(1 / 9))
    model.set_weights([np.asarray(weight) for weight in (*weights, network.head)])
    return model


def test_fused_normalisation_equals_that_of_example_06():
    rng = np.random.default_rng(2)
    ours = BatchNormalisation(4, example06.KEEP, example06.EPSILON)
    plain = example06.BatchNormalisation(4)
    for norm in (ours, plain):
        norm.offset.assign([1, 2, 3, 4])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    for x in rng.normal(3, 2, (5, 64, 16, 16, 4)).astype(np.float32):
        close(ours(x, training=True), plain(x, training=True))
        close(ours(x, training=False), plain(x, training=False))


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
def test_convolution_by_hand_has_the_gradients_of_tensorflow_s(dtype):
    rng = np.random.default_rng(6)
    x, kernel, upstream = (
        tf.constant(rng.normal(size=shape), dtype)
        for shape in ((5, 4, 3, 6), (3, 3, 6, 7), (5, 4, 3, 7))
    )

    def results(convolve):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            out = convolve(x, kernel)
        return [tf.cast(y, tf.float32) for y in (out, *tape.gradient(out, [x, kernel], upstream))]

    expected = results(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))
    error = 1e-5 if dtype == tf.float32 else 0.02  # of the largest value
    ours = results(tf.function(example14.convolution_by_hand))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=error * np.abs(other).max())


def test_whitened_patches_are_uncorrelated(data):
    images = data.train_images[:1000]
    mean, kernels = example14.whitening_kernels(images)
    assert mean.dtype == kernels.dtype == np.float32
    np.testing.assert_array_equal(mean, np.rint(images.mean(axis=(0, 1, 2))))
    patches = tf.nn.conv2d(images - mean, kernels, strides=1, padding="VALID")
    covariance = np.cov(patches.numpy().reshape(-1, 12), rowvar=False)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.05)  # noise counts less
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)


def orthogonal_by_decomposition(matrix):
    """Return what `orthogonal` approaches its goal with, by way of the singular values."""
    u, s, vt = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


@pytest.mark.parametrize("shape", [(108, 32), (64, 64), (40, 70)])
def test_orthogonal_makes_directions_equally_long_and_changes_nothing_else(shape):
    rng = np.random.default_rng(8)
    u, s, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    matrix = tf.constant((u * np.geomspace(1, 1e-2, len(s))) @ vt, tf.float32)
    result = example14.orthogonal(matrix, tf.float32)
    np.testing.assert_allclose(result, orthogonal_by_decomposition(matrix), rtol=0, atol=1e-4)
    lengths = np.linalg.svd(result, compute_uv=False)
    assert 0.1 < lengths.min() < lengths.max() < 1.3
    rough = example14.orthogonal(matrix, tf.bfloat16)
    np.testing.assert_allclose(rough, result, rtol=0, atol=0.05)
    assert not np.any(example14.orthogonal(0 * matrix, tf.float32))


def test_five_training_steps_equal_keras(network, data, monkeypatch):
    monkeypatch.setattr(example14, "WEIGHT_DECAY", 0.5)  # so that it shows
    twin, rate = keras_twin(network), 0.005
    sgd = functools.partial(tf.keras.optimizers.SGD, momentum=0.6, nesterov=True)
    offsets = [v for v in twin.trainable_variables if v.name == "beta"]
    *kernels, head = [v for v in twin.trainable_variables if v.name != "beta"]
    for_head, for_offsets = sgd(rate * 20), sgd(rate * 160)
    velocities = [0.0] * len(kernels)
    cross_entropy = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    ours = example14.Training(network)
    for step in range(5):
        images = data.train_images[step * BATCH : (step + 1) * BATCH]
        labels = data.train_labels[step * BATCH : (step + 1) * BATCH]
        found = ours.step(images, labels, tf.constant(rate))
        with tf.GradientTape() as tape:
            logits = twin(images - network.mean, training=True)
            loss = cross_entropy(np.eye(10)[labels], logits)
            total = loss + example14.WEIGHT_DECAY * tf.nn.l2_loss(head.value)
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-4)
        assert found["accuracy"] == np.mean(np.argmax(logits, axis=1) == labels)
        gradients = tape.gradient(total, [v.value for v in (head, *offsets, *kernels)])
        for_head.apply(gradients[:1], [head])
        for_offsets.apply(gradients[1:7], offsets)
        for i, (kernel, gradient) in enumerate(zip(kernels, gradients[7:], strict=True)):
            velocities[i] = 0.6 * velocities[i] + gradient.numpy()
            direction = gradient.numpy() + 0.6 * velocities[i]
            direction = orthogonal_by_decomposition(direction.reshape(-1, kernel.shape[-1]))
            weights = kernel.numpy()
            weights *= np.sqrt(kernel.shape[-1]) / np.linalg.norm(weights)
            kernel.assign(weights - rate * direction.reshape(kernel.shape))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    close(network.head, head)
    for i in range(6):
        close(network.kernels[i], kernels[i])
        close(network.norms[i].offset, offsets[i])
    images = data.test_images[:BATCH]  # with the moving averages; none left out, none mixed
    expected = twin(images - network.mean, training=False)
    predicted = training.predict(network, images, batch_size=5)
    close(predicted, expected, rtol=0.02, atol=0.002)  # variances by N - 1 here, by N in Keras
    assert np.isfinite(training.mean_loss(tf.constant([[1e4] + [-1e4] * 9]), [3], 0.2))


# --- Augmentation and views -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 28])
@pytest.mark.parametrize("mirrored", [False, True])
def test_augmentation_makes_every_shift_or_crop_and_nothing_else(mirrored, size):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    images = np.repeat(image[None], 2000, axis=0)
    results = example14.augment(images, np.full(2000, mirrored), size, 0, rng)
    if size == 32:  # moved by up to two pixels; else five places for a crop of 28, too
        image = np.pad(image, ((2, 2), (2, 2), (0, 0)), "symmetric")
    places = [(y, x) for y in range(5) for x in range(5)]
    expected = [image[y : y + size, x : x + size] for y, x in places]
    if mirrored:
        expected = [np.fliplr(picture) for picture in expected]
    kinds = {picture.tobytes(): i for i, picture in enumerate(expected)}
    found = np.bincount([kinds[result.tobytes()] for result in results], minlength=25)
    assert found.min() > 40  # 80 of each are expected


@pytest.mark.parametrize("size", [32, 24])
@pytest.mark.parametrize("side", [1, 12, 32])
def test_cutout_hides_a_square_of_that_side_anywhere(side, size):
    images = np.full((3000, 32, 32, 3), 200, np.uint8)
    out = example14.augment(images, np.zeros(3000, bool), size, side, np.random.default_rng(1))
    hidden = out == 120
    assert np.array_equal(out, np.where(hidden, 120, 200))
    rows, columns = hidden[..., 0].any(axis=2), hidden[..., 0].any(axis=1)  # (N, size)
    assert np.array_equal(hidden, np.repeat((rows[:, :, None] & columns[:, None])[..., None], 3, 3))
    assert rows.sum(axis=1).max() == columns.sum(axis=1).max() == min(side, size)
    assert rows.sum(axis=1).min() == 1  # the rest of it lies outside
    for hidden in (rows, columns):
        assert hidden.any(axis=0).all()
        assert abs(hidden[:, 0].mean() - hidden[:, -1].mean()) < 0.05


def test_six_views_are_the_image_moved_by_a_pixel_and_mirrored(monkeypatch, data):
    image, views = data.test_images[:1], []
    monkeypatch.setattr(example14, "predict", lambda _, images: views.append(images[0]) or [[1.0]])
    assert example14.predict_six_views(None, image).shape == (6, 1, 1)
    inner = image[0, 2:-2, 2:-2]
    for i, moved in enumerate((0, -1, 1)):
        window = slice(2 - moved, 30 - moved)
        assert np.array_equal(views[2 * i][window, window], inner)
        assert np.array_equal(views[2 * i + 1], np.fliplr(views[2 * i]))


# --- A run, stopped in the middle and continued ---------------------------------------------------

TINY = "--train-images 400 --batch-size 50 --epochs 5 --channels 4 4 8 --cutout 6"
STEPS = 8  # in an epoch


def tiny(sample_dir, models_dir, *more):
    return arguments(sample_dir, models_dir, *TINY.split(), *more)


@pytest.fixture(scope="module")
def undisturbed(data, sample_dir, tmp_path_factory):
    """Return the final state, and what the network was given, step by step."""
    models_dir, seen = tmp_path_factory.mktemp("models"), []

    def augment(images, mirrored, size, cutout, rng, augment=example14.augment):
        seen.append((images, mirrored, size, cutout))
        return augment(images, mirrored, size, cutout, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example14, "augment", augment)
        without_pictures(example14.main, *tiny(sample_dir, models_dir))
    return final_state(models_dir), seen


def test_crops_come_first_and_each_image_is_mirrored_in_every_other_epoch(undisturbed):
    _, seen = undisturbed
    assert [size for *_, size, _ in seen] == [24] * 3 * STEPS + [32] * 2 * STEPS
    epochs = []
    for epoch in range(5):
        images, mirrored = zip(*(row[:2] for row in seen[epoch * STEPS :][:STEPS]), strict=True)
        keys = [image.tobytes() for image in np.concatenate(images)]
        epochs.append(dict(zip(keys, np.concatenate(mirrored).tolist(), strict=True)))
    assert epochs[0] == epochs[2] == epochs[4]
    assert epochs[1] == epochs[3] == {key: not flag for key, flag in epochs[0].items()}
    assert 0.4 < np.mean(list(epochs[0].values())) < 0.6


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    undisturbed, sample_dir, tmp_path, capsys
):
    """Among the small images, in the second epoch, and among the large ones, in the fourth."""
    argv = tiny(sample_dir, tmp_path)
    check_ctrl_c(STEPS + 3, example14.main, capsys, *argv)
    check_stopped(start_to_be_killed(example14, "in step", 2 * STEPS - 1, *argv))
    without_pictures(example14.main, *argv)
    assert final_state(tmp_path) == undisturbed[0]
