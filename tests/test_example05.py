"""Checks example 05 on sample data: that it computes what example 04's layers compute and trains as
they train, that its operations do what the notes in it say, that a run that is killed goes on to
the same weights, and that a picture of one's own is classified with what was trained.
"""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import common  # noqa: E402  # isort: skip  # before TensorFlow: silences it
import tensorflow as tf  # noqa: E402

from datasets import mnist  # noqa: E402
from examples import example04_mnist_cnn_layers as example04  # noqa: E402
from examples import example05_mnist_cnn_nn as example05  # noqa: E402

SCRIPT = ROOT / "examples" / "example05_mnist_cnn_nn.py"
QUICK = ["--data", "sample", "--batch-size", "64", "--precision", "float32"]


def arguments(data_dir, models_dir, *more):
    return [*QUICK, "--data-dir", str(data_dir), "--models-dir", str(models_dir), *more]


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir, output = tmp_path_factory.mktemp("models"), io.StringIO()
    with contextlib.redirect_stdout(output):
        metrics = example05.main(arguments(sample_dir, models_dir))
    return models_dir / example05.NAME, metrics, output.getvalue()


# --- The same network as example 04's -------------------------------------------------------------


def twins(monkeypatch):
    """Both networks with the same weights, and with nothing left to chance in training."""
    monkeypatch.setattr(example04, "DROPOUT", 0.0)
    for name in ("DROPOUT", "ANGLE", "ZOOM", "SHIFT"):
        monkeypatch.setattr(example05, name, 0)
    tf.keras.config.set_dtype_policy("float32")
    network, model = example05.Network(tf.float32, seed=3), example04.make_model()
    rng = np.random.default_rng(0)
    norms = [x for x in model.layers if isinstance(x, tf.keras.layers.BatchNormalization)]
    convolutions = [x for x in model.layers if isinstance(x, tf.keras.layers.Conv2D)]
    assert len(norms) == len(convolutions) == len(network.kernels)
    for layer, (norm, convolution) in enumerate(zip(norms, convolutions, strict=True)):
        for variable, low, high in (
            (network.offsets[layer], -0.5, 0.5),
            (network.moving_means[layer], -0.5, 0.5),
            (network.moving_variances[layer], 0.5, 2),
        ):
            variable.assign(rng.uniform(low, high, variable.shape))
        convolution.kernel.assign(network.kernels[layer])
        norm.beta.assign(network.offsets[layer])
        norm.moving_mean.assign(network.moving_means[layer])
        norm.moving_variance.assign(network.moving_variances[layer])
    model.layers[-1].kernel.assign(network.dense)
    model.layers[-1].bias.assign(network.biases)
    return network, model


def test_same_weights_give_the_same_logits(data, monkeypatch):
    network, model = twins(monkeypatch)
    ours = example05.predict(network, data.test_images, 100)
    theirs = model.predict(data.test_images, batch_size=100, verbose=0)
    assert ours.dtype == np.float32
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_same_start_and_batches_give_the_same_losses_for_ten_steps(data, monkeypatch):
    """To a thousandth: rounding errors of 1e-5 flip a ReLU here and there and grow step by step.

    A mistake is larger: with MEAN_DECAY 0.85 in place of 0.9 the losses differ by a hundredth.
    """
    rate = 3e-4
    network, model = twins(monkeypatch)
    example04.compile_model(model, rate)
    training, losses, theirs = example05.Training(network, 1), [], []
    for step in range(10):
        batch = slice(64 * step, 64 * (step + 1))
        images, labels = data.train_images[batch], data.train_labels[batch]
        row = training.train_step(images, labels, tf.constant(rate), tf.constant([0, step]))
        losses.append(float(row[0]))
        theirs.append(float(model.train_on_batch(images, tf.one_hot(labels, 10))[0]))
        model.reset_metrics()
    assert losses[-1] < losses[0] - 0.3  # they have learned something meanwhile
    np.testing.assert_allclose(losses, theirs, rtol=1e-3)


def test_the_table_of_shapes_is_right():
    text = SCRIPT.read_text()
    network = example05.Network(tf.float32, 0)
    for kernel in network.kernels:
        product = " * ".join(f"{n:>3}" if i > 1 else str(n) for i, n in enumerate(kernel.shape))
        count = f"{int(tf.size(kernel)):,}"
        assert f"{product} ={count:>8}\n" in text, product
    assert f"= {int(tf.size(network.dense)) + 10:,}" in text
    assert f"784 * 14 * 14 * 32 = {784 * 14 * 14 * 32:,}" in text


@pytest.mark.parametrize("size", [7, 14, 28])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (5, 2), (5, 3)])
def test_the_formulas_for_padding_are_right(size, kernel, stride):
    image, weights = tf.zeros([1, size, size, 1]), tf.zeros([kernel, kernel, 1, 1])
    for padding, expected in (
        ("SAME", np.ceil(size / stride)),
        ("VALID", np.ceil((size - kernel + 1) / stride)),
    ):
        assert tf.nn.conv2d(image, weights, stride, padding).shape[1] == expected


# --- Augmentation ---------------------------------------------------------------------------------


def test_augmentation_moves_by_whole_pixels_where_only_shifts_are_left(data, monkeypatch):
    monkeypatch.setattr(example05, "ANGLE", 0.0)
    monkeypatch.setattr(example05, "ZOOM", 0.0)
    images = data.test_images[:50]
    same = example05.augment(images, tf.constant([0, 0]))
    assert same.dtype == tf.uint8
    monkeypatch.setattr(example05, "SHIFT", 0.0)
    assert np.array_equal(example05.augment(images, tf.constant([0, 0])), images)
    assert not np.array_equal(same, images)


def test_augmentation_changes_little_and_never_the_same(data):
    images = np.repeat(data.test_images[:1], 200, axis=0)
    out = example05.augment(images, tf.constant([0, 1])).numpy().astype(float)
    assert len({image.tobytes() for image in out}) == 200
    ink = out.sum(axis=(1, 2, 3)) / images[0].sum()
    assert 0.65 < ink.min() < ink.max() < 1.5  # none is gone, none blown up
    assert np.array_equal(out, example05.augment(images, tf.constant([0, 1])))
    grid = np.arange(28)
    centres = (out * grid[:, None, None]).sum(axis=(1, 2, 3)) / out.sum(axis=(1, 2, 3))
    assert 1 < np.ptp(centres) < 6


# --- A whole run ----------------------------------------------------------------------------------


def test_it_learns(finished):
    folder, metrics, output = finished
    assert metrics["test_accuracy"] > 0.93  # of 254; chance is 0.1
    history = metrics["history"]
    assert {len(values) for values in history.values()} == {metrics["epochs"]}
    assert history["loss"][-1] < history["loss"][0] - 0.5
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert f"test accuracy {metrics['test_accuracy']:.4f} on sample data" in output
    for name in ("learning_curves", "confusion_matrix", "worst_mistakes"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 100


def test_a_second_run_trains_nothing_more(finished, sample_dir, monkeypatch):
    folder, metrics, _ = finished

    def train_step(*_):
        raise AssertionError("a step of training")

    monkeypatch.setattr(example05.Training, "train_step", train_step)
    again = example05.main(arguments(sample_dir, folder.parent))
    for key in ("history", "test_accuracy", "train_seconds"):
        assert again[key] == metrics[key]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_a_run_that_is_stopped_ends_as_one_that_is_not(finished, sample_dir, tmp_path, number):
    _, metrics, _ = finished
    argv = arguments(sample_dir, tmp_path)
    code = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(SCRIPT), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("**/ckpt-2.index")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert "test accuracy" not in output
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    again = example05.main(argv)
    for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert again["history"][key] == metrics["history"][key]
    assert again["test_accuracy"] == metrics["test_accuracy"]


# --- A picture of one's own -----------------------------------------------------------------------


def status(capsys, *argv):
    """Run as a program does: exit status, and what was written to stderr but progress bars."""
    code = 0
    try:
        common.run(lambda: example05.main(list(argv)))
    except SystemExit as error:
        code = error.code
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return code, [line for line in lines if line.strip() and "%|" not in line]


def test_a_picture_is_classified(finished, data, tmp_path, capsys):
    """Sample digits, made large and dark on light, are seen as what they are."""
    folder, _, _ = finished
    right = 0
    for number in range(10):
        image = Image.fromarray(255 - data.test_images[number, ..., 0]).resize((300, 300))
        image.save(tmp_path / "digit.png")
        flags = ["--image", str(tmp_path / "digit.png"), "--models-dir", str(folder.parent)]
        result = example05.main(flags)
        assert sum(result["probabilities"]) == pytest.approx(1, abs=1e-3)
        right += result["digit"] == data.test_labels[number]
    assert right >= 9
    assert (folder / "picture.png").is_file()
    assert f"{result['probabilities'][result['digit']]:.2%}  {result['digit']}" in (
        capsys.readouterr().out
    )


def test_a_picture_before_anything_was_trained(tmp_path, capsys):
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "digit.png")
    code, lines = status(
        capsys, "--image", str(tmp_path / "digit.png"), "--models-dir", str(tmp_path)
    )
    assert code == 1
    assert len(lines) == 1
    assert "no trained network" in lines[0]
    assert "python examples/example05_mnist_cnn_nn.py" in lines[0]


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "missing"])
def test_a_picture_that_is_none(finished, tmp_path, capsys, content):
    folder, _, _ = finished
    path = tmp_path / "digit.png"
    if content is not None:
        path.write_bytes(content)
    code, lines = status(capsys, "--image", str(path), "--models-dir", str(folder.parent))
    assert code == 1
    assert len(lines) == 1
    assert str(path) in lines[0]


def test_damaged_weights(finished, data, tmp_path, capsys):
    folder, _, _ = finished
    target = tmp_path / example05.NAME
    target.mkdir()
    for file in folder.glob("weights.*"):
        content = file.read_bytes()
        (target / file.name).write_bytes(content[: len(content) // 2])
    Image.fromarray(data.test_images[0, ..., 0]).save(tmp_path / "digit.png")
    code, lines = status(
        capsys, "--image", str(tmp_path / "digit.png"), "--models-dir", str(tmp_path)
    )
    assert code == 1
    assert len(lines) == 1
    assert "damaged" in lines[0]


def test_a_learning_rate_that_is_too_high(sample_dir, tmp_path, capsys):
    argv = arguments(sample_dir, tmp_path, "--learning-rate", "1e38", "--epochs", "1")
    code, lines = status(capsys, *argv)
    assert code == 1
    assert "--learning-rate" in lines[-1]


def test_too_few_images(sample_dir, tmp_path, capsys):
    code, lines = status(capsys, *arguments(sample_dir, tmp_path, "--train-images", "10"))
    assert (code, len(lines)) == (1, 1)
    assert "--batch-size" in lines[0]
