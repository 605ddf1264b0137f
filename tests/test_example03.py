"""Checks example 03: its logits, loss, update rule and shifts against NumPy and Keras; that both
networks learn, that a run that was stopped ends with the same weights as one that was not, that
pictures of digits are recognised however they were drawn, and what is said when things go wrong.
"""

import argparse
import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import checkpoint_folder, error_of, final_state, start, without_pictures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import common  # noqa: E402  # isort: skip  # before TensorFlow, to silence it
import tensorflow as tf  # noqa: E402

from datasets import mnist  # noqa: E402
from examples import example03_mnist_mlp as example03  # noqa: E402


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


def network(hidden=(20, 30), dtype=tf.float32):
    """A small network in which nothing is zero, so that a mistake anywhere shows."""
    network = example03.Network(hidden, dtype, seed=1)
    rng = np.random.default_rng(2)
    for variable in network.variables:
        variable.assign_add(rng.normal(0, 0.1, variable.shape))
    return network


def keras_twin(network):
    """A Keras model of the same shape with the same weights; it takes scaled pixels."""
    *hidden, output = network.kernels
    layers = [tf.keras.layers.Input((28, 28, 1)), tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(kernel.shape[1], activation="relu") for kernel in hidden]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(output.shape[1])])
    pairs = zip(network.kernels, network.biases, strict=True)
    model.set_weights([variable.numpy() for pair in pairs for variable in pair])
    return model


def scaled(images):
    return (images.astype(np.float32) - example03.PIXEL_MEAN) / example03.PIXEL_DEVIATION


# --- Parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (20,), (20, 30)])
def test_logits_equal_those_of_keras(hidden, data):
    model, images = network(hidden), data.test_images[:9]
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((9, 10), tf.float32)
    np.testing.assert_allclose(logits, keras_twin(model)(scaled(images)), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_float32(data):
    images = data.test_images[:9]
    logits = network(dtype=tf.bfloat16)(images).numpy()
    assert np.abs(logits - network()(images)).max() < 0.05 * np.abs(logits).max()


def test_pixels_are_scaled_to_mean_0_and_variance_1(data):
    pixels = scaled(data.train_images)  # the sample data is not MNIST, but near it
    assert abs(pixels.mean()) < 0.3
    assert 0.7 < pixels.std() < 1.3


def test_one_hot_vectors():
    vectors = example03.one_hot(tf.constant([2, 0, 3, 2]), 4)
    assert vectors.dtype == tf.float32
    assert vectors.numpy().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_loss_is_minus_the_logarithm_of_the_right_probability():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(0, 5, (7, 10)).astype(np.float32), rng.integers(0, 10, 7, np.int32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[range(7), labels]).mean()
    loss = example03.mean_loss(tf.constant(logits), tf.constant(labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(loss, keras(labels, logits), rtol=1e-5)
    huge = tf.constant([[1e4, -1e4, 0.0]])
    assert float(example03.mean_loss(huge, tf.constant([1]))) == pytest.approx(2e4)


def test_no_opinion_at_the_start(data):
    logits = example03.Network((20,), tf.float32, 0)(data.test_images)
    loss = example03.mean_loss(logits, tf.constant(data.test_labels))
    assert float(loss) == pytest.approx(np.log(10))


def test_steps_equal_those_of_keras(data):
    model = network()
    twin, training = keras_twin(model), example03.Training(model, epochs=1, shift=0)
    optimizer = tf.keras.optimizers.SGD(
        0.05, example03.MOMENTUM, nesterov=True, global_clipnorm=example03.LONGEST_GRADIENT
    )
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for step in range(5):
        batch = slice(step * 16, step * 16 + 16)
        images, labels = data.train_images[batch], data.train_labels[batch]
        loss, right = training.train_step(images, labels, tf.constant(0.05))
        with tf.GradientTape() as tape:
            logits = twin(scaled(images))
            expected = cross_entropy(labels, logits)
        variables = twin.trainable_variables
        optimizer.apply(tape.gradient(expected, [v.value for v in variables]), variables)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        assert right == np.mean(np.argmax(logits, axis=1) == labels)
    for kernel, layer in zip(model.kernels, twin.layers[1:], strict=True):
        np.testing.assert_allclose(kernel, layer.kernel, rtol=1e-3, atol=1e-5)


def test_one_step_of_softmax_regression_by_hand(data):
    model, images = network(()), data.train_images[:6]
    labels = data.train_labels[:6]
    kernel, bias = model.kernels[0].numpy(), model.biases[0].numpy()
    x = scaled(images).reshape(6, 784)
    exponentials = np.exp(x @ kernel + bias)
    errors = exponentials / exponentials.sum(axis=1, keepdims=True) - np.eye(10)[labels]
    training = example03.Training(model, epochs=1, shift=0)
    training.train_step(images, labels, tf.constant(0.1))
    gradients = x.T @ errors / 6, errors.mean(axis=0)
    length = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
    assert length > example03.LONGEST_GRADIENT  # so it is clipped
    share = 0.1 * (1 + example03.MOMENTUM) / length  # the first step looks one velocity ahead
    np.testing.assert_allclose(model.kernels[0], kernel - share * gradients[0], atol=1e-5)
    np.testing.assert_allclose(model.biases[0], bias - share * gradients[1], atol=1e-5)


def test_learning_rate_rises_and_falls():
    rates = [example03.one_cycle(done) for done in np.linspace(0, 1, 101)]
    peak = round(100 * example03.WARM_UP)
    assert rates[0] == rates[-1] == 0
    assert max(rates) == rates[peak] == pytest.approx(1)
    assert np.all(np.diff(rates[:peak]) > 0)
    assert np.all(np.diff(rates[peak:]) < 0)


def test_all_shifts_are_the_image_moved_with_paper_coming_in():
    images = np.random.default_rng(4).integers(1, 256, (3, 28, 28, 1), np.uint8)
    shifts = example03.all_shifts(images, 1)
    assert shifts.shape == (3, 3, 3, 28, 28)
    np.testing.assert_array_equal(shifts[:, 1, 1], images[..., 0])
    down_and_left = np.zeros((3, 28, 28), np.uint8)
    down_and_left[:, 1:, :-1] = images[:, :-1, 1:, 0]
    np.testing.assert_array_equal(shifts[:, 2, 0], down_and_left)
    np.testing.assert_array_equal(example03.all_shifts(images, 0)[:, 0, 0], images[..., 0])


def test_every_image_is_seen_once_an_epoch_and_moved_only_for_hidden_layers(
    data, monkeypatch, tmp_path
):
    seen = []

    def train_step(self, images, labels, learning_rate):
        seen.append((images, labels))
        return tf.zeros(2)

    monkeypatch.setattr(example03.Training, "train_step", train_step)
    args = argparse.Namespace(epochs=1, batch_size=40, learning_rate=0.1, seed=0, train_images=1000)
    originals = data.train_images[:1000].reshape(1000, -1)
    ink = originals.sum(axis=1)  # moved by a pixel, no ink of these digits is lost
    for shift, kept in ((0, 1.0), (1, 1 / 9)):
        seen.clear()
        training = example03.Training(network((4,)), 1, shift)
        checkpoint = tf.train.Checkpoint(training=training)
        manager = common.open_checkpoints(checkpoint, tmp_path / str(shift), restart=False)
        example03.train(training, data, args, manager, lambda: False)
        images, labels = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        assert sorted(images.sum(axis=(1, 2, 3))) == sorted(ink)
        assert np.array_equal(np.bincount(labels), np.bincount(data.train_labels[:1000]))
        known = {original.tobytes() for original in originals}
        share = np.mean([image.tobytes() in known for image in images])
        assert share == pytest.approx(kept, abs=0.04)


# --- A run on sample data -------------------------------------------------------------------------

METRICS = {
    *("test_accuracy", "train_seconds", "total_seconds", "images_per_second", "parameters"),
    *("epochs", "seed", "precision", "data", "command", "versions", "machine", "history"),
    "softmax_regression",
}


def flags(sample_dir, models_dir):
    return ["--data", "sample", "--data-dir", str(sample_dir), "--models-dir", str(models_dir)]


@pytest.fixture(scope="module")
def run(data, sample_dir, tmp_path_factory):
    """The folder with the results of one run, its metrics and its arguments."""
    models_dir = tmp_path_factory.mktemp("models")
    arguments = [*flags(sample_dir, models_dir), "--batch-size", "50"]
    return models_dir / example03.NAME, example03.main(arguments), arguments


def test_both_learn_and_hidden_layers_learn_more(run):
    _, metrics, _ = run
    softmax_regression = metrics["softmax_regression"]
    for result in (metrics, softmax_regression):
        assert result["history"]["loss"][-1] < 0.3 * result["history"]["loss"][0]
        assert len(result["history"]["loss"]) == metrics["epochs"]
    assert softmax_regression["test_accuracy"] > 0.85  # chance is 0.1
    assert metrics["test_accuracy"] > 0.88
    assert metrics["history"]["validation_accuracy"][-1] > 0.95
    losses = [m["history"]["validation_loss"][-1] for m in (metrics, softmax_regression)]
    assert losses[0] < 0.7 * losses[1]


def test_metrics_are_complete_and_on_disk(run):
    folder, metrics, _ = run
    assert set(metrics) >= METRICS
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert "sample" in metrics["data"]
    assert metrics["softmax_regression"]["parameters"] == 785 * 10
    assert metrics["parameters"] == 785 * 512 + 513 * 512 + 513 * 10


@pytest.mark.parametrize(
    "name", ["learning_curves", "templates", "confusion_matrix", "worst_mistakes"]
)
def test_pictures_are_not_blank(run, name):
    with Image.open(run[0] / f"{name}.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_a_second_run_trains_nothing_more(run, capsys, monkeypatch):
    _, metrics, arguments = run
    monkeypatch.setattr(example03.Training, "train_step", lambda *_: pytest.fail("trained"))
    again = example03.main([*arguments, "--min-accuracy", "0.5"])
    assert "going on from" in capsys.readouterr().out
    for key in ("history", "test_accuracy", "train_seconds", "softmax_regression"):
        assert again[key] == metrics[key], key


# --- Stopped, and continued -----------------------------------------------------------------------

STOP = """
    import os, pathlib, signal, sys, threading
    sys.path.insert(0, sys.argv[1])
    from examples import common, example03_mnist_mlp as example03

    number, when = getattr(signal, sys.argv[2]), int(sys.argv[3])
    sys.argv[1:] = sys.argv[4:]
    steps = 0

    def train_step(*arguments, train_step=example03.Training.train_step):
        global steps
        steps += 1
        if steps == when:
            os.kill(os.getpid(), number)
        return train_step(*arguments)

    example03.Training.train_step = train_step
    common.run(example03.main)
"""
STEPS = 8  # in an epoch, of 3; softmax regression does its 24 steps first
STOPS = {
    "Ctrl-C in the last epoch of softmax regression": ("SIGINT", 20),
    "killed in the network with hidden layers": ("SIGKILL", 37),
}


def tiny(sample_dir, models_dir):
    settings = "--train-images 400 --batch-size 50 --epochs 3 --hidden 16 16"
    return [*flags(sample_dir, models_dir), *settings.split()]


@pytest.fixture(scope="module")
def not_stopped(data, sample_dir, tmp_path_factory):
    models_dir = tmp_path_factory.mktemp("whole")
    metrics = without_pictures(example03.main, *tiny(sample_dir, models_dir))
    return metrics, final_state(models_dir)


@pytest.fixture(scope="module")
def stopped(data, sample_dir, tmp_path_factory):
    """Return, for each way to stop a run: its folder, output, errors and exit status."""
    processes = {}
    for name, (number, when) in STOPS.items():
        models_dir = tmp_path_factory.mktemp("stopped")
        script = ["-c", textwrap.dedent(STOP), ROOT, number, when]
        processes[name] = models_dir, start(*script, *tiny(sample_dir, models_dir))
    return {
        name: (models_dir, *process.communicate(timeout=300), process.returncode)
        for name, (models_dir, process) in processes.items()
    }


@pytest.mark.parametrize("name", STOPS)
def test_the_same_command_ends_with_the_same_weights(name, stopped, not_stopped, sample_dir):
    models_dir, output, errors, status = stopped[name]
    assert "Traceback" not in errors
    if STOPS[name][0] == "SIGINT":
        # The epoch at hand is brought to its end; the second network is not begun.
        assert status == 130
        assert errors.endswith("the same command goes on from what was saved\n")
        assert sum(line.split()[0].isdigit() for line in output.splitlines()) == 3
    else:
        assert status == -signal.SIGKILL
    assert not (models_dir / example03.NAME / "metrics.json").exists()
    metrics, state = not_stopped
    continued = without_pictures(example03.main, *tiny(sample_dir, models_dir))
    assert len(state) == 20  # 2 + 6 variables, their velocities; two epochs, two histories
    assert final_state(models_dir) == state
    assert continued["test_accuracy"] == metrics["test_accuracy"]


# --- One's own picture ----------------------------------------------------------------------------


def drawing(image, size=300):
    """A test image (28, 28, 1) as somebody would draw it: large, and dark on light."""
    large = Image.fromarray(255 - image[..., 0]).resize((size, size), Image.Resampling.BICUBIC)
    return large.convert("RGB")


def off_centre(picture):
    page = Image.new("RGB", (800, 500), "white")
    page.paste(picture.resize((120, 120)), (30, 360))
    return page


def transparent(picture):
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    layer.putalpha(picture.convert("L").point(lambda value: 255 - value))
    return layer


TROUBLES = {
    "as it is": lambda picture: picture,
    "inverted": lambda picture: Image.eval(picture, lambda value: 255 - value),
    "off centre": off_centre,
    "RGBA": transparent,
    "large": lambda picture: picture.resize((3000, 3000)),
    "grey": lambda picture: picture.convert("L").point(lambda value: 120 + value // 4),
}


@pytest.fixture(scope="module")
def certain(run, data):
    """Test images of which the network is certain, and right: one of each of three digits."""
    folder, _, arguments = run
    model = example03.Network(example03.HIDDEN, common.start("auto"), 0)
    common.read_weights(model, folder, example03.__file__)
    probabilities = tf.nn.softmax(model.infer(data.test_images)).numpy()
    of_the_label = probabilities[range(len(probabilities)), data.test_labels]
    best = [np.argmax(of_the_label * (data.test_labels == digit)) for digit in (2, 4, 7)]
    assert of_the_label[best].min() > 0.95
    return arguments, data.test_images[best], data.test_labels[best]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_picture_is_recognised(trouble, certain, run, tmp_path, capsys, monkeypatch):
    arguments, images, labels = certain
    monkeypatch.setattr(mnist, "load", lambda *_: pytest.fail("no data is needed"))
    for image, label in zip(images, labels, strict=True):
        TROUBLES[trouble](drawing(image)).save(tmp_path / "digit.png")
        capsys.readouterr()
        result = example03.main([*arguments, "--image", str(tmp_path / "digit.png")])
        assert result["digit"] == label
        _, *lines, wrote = capsys.readouterr().out.splitlines()
        assert len(lines) == 5
        assert lines[0].split() == [f"{max(result['probabilities']):.2%}", str(label)]
        assert "picture.png" in wrote
    assert sum(result["probabilities"]) == pytest.approx(1, abs=1e-5)
    with Image.open(run[0] / "picture.png") as seen:
        assert np.asarray(seen.convert("L")).std() > 5


# --- What can go wrong ----------------------------------------------------------------------------


def test_a_picture_before_any_training(sample_dir, tmp_path, capsys):
    drawing(np.eye(28, dtype=np.uint8)[..., None] * 255).save(tmp_path / "digit.png")
    arguments = [*flags(sample_dir, tmp_path), "--image", str(tmp_path / "digit.png")]
    error = error_of(example03.main, capsys, *arguments)
    assert "no trained network" in error
    assert f"python examples/{example03.NAME}.py" in error


def test_a_file_that_is_no_picture(run, tmp_path, capsys):
    path = tmp_path / "notes.txt"
    for content in (None, "seven"):
        if content:
            path.write_text(content)
        assert str(path) in error_of(example03.main, capsys, *run[2], "--image", path)


def test_a_picture_for_a_network_of_another_shape(run, tmp_path, capsys):
    drawing(np.eye(28, dtype=np.uint8)[..., None] * 255).save(tmp_path / "digit.png")
    arguments = [*run[2], "--image", str(tmp_path / "digit.png"), "--hidden", "8"]
    assert "of another network" in error_of(example03.main, capsys, *arguments)


def test_a_damaged_checkpoint_and_restart(not_stopped, sample_dir, tmp_path, capsys):
    arguments = tiny(sample_dir, tmp_path)
    without_pictures(example03.main, *arguments)
    for path in checkpoint_folder(tmp_path).glob("ckpt-*.data*"):
        os.truncate(path, 100)
    capsys.readouterr()
    assert "--restart" in error_of(example03.main, capsys, *arguments)
    without_pictures(example03.main, *arguments, "--restart")
    assert final_state(tmp_path) == not_stopped[1]


def test_too_few_images_too_high_a_rate_too_low_an_accuracy(run, sample_dir, tmp_path, capsys):
    def error(*arguments):
        return error_of(example03.main, capsys, *arguments)

    arguments = tiny(sample_dir, tmp_path)
    assert "lower --batch-size" in error(*arguments, "--train-images", 49)
    assert "--learning-rate" in error(*arguments, "--learning-rate", "1e38")
    assert "1.01" in error(*run[2], "--min-accuracy", 1.01)


@pytest.mark.parametrize("wrong", ["--hidden 0", "--hidden", "--epochs 0", "--image", "--what"])
def test_wrong_flags_are_status_2(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        example03.main(["--models-dir", str(tmp_path), *wrong.split()])
    assert error.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
