"""Checks example 08: that what it exports answers as the network does, in a process that has
nothing of this project and in a session as a server has it; that pictures become what MNIST's
images are; that kills, two exports at once and damaged files leave only whole versions.
"""

import io
import json
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import error_of, run, start
from serving_stand_in import RefusalError, Version

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tensorflow_serving.apis import predict_pb2, prediction_log_pb2  # noqa: E402

from datasets import mnist, sample  # noqa: E402
from examples import common  # noqa: E402
from examples import example08_serving_export as example08  # noqa: E402
from examples.common import tf  # noqa: E402

REAL = ROOT / "datasets" / "downloads"
PRESENT = len(list((REAL / "mnist").glob("*.gz"))) == 4


def arguments(data_dir, models_dir, *more):
    return ["--data", "sample", "--data-dir", data_dir, "--models-dir", models_dir, *more]


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


@pytest.fixture(scope="module")
def network(data):
    """A network that has learned a little, so that its answers differ from image to image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example08, "STEPS", 60)
        settings = {"seed": 1, "learning_rate": 3e-3, "batch_size": 64, "epochs": 1}
        return example08.train_for_a_moment(data, Namespace(train_images=None, **settings))


@pytest.fixture(scope="module")
def exported_network(network, data, tmp_path_factory):
    """The folder of one exported version of `network`."""
    folder, accuracy = example08.export(network, tmp_path_factory.mktemp("served") / "m", data)
    logits = network.predict(data.test_images, verbose=0)
    assert accuracy == np.mean(logits.argmax(axis=1) == data.test_labels)
    return folder


@pytest.fixture(scope="module")
def server(exported_network):
    """The version as a server holds it."""
    return Version(exported_network)


@pytest.fixture
def trained_dir(network, data, tmp_path):
    """A models folder as example 04 leaves it, with `network` in it."""
    folder = tmp_path / example08.TRAINED
    folder.mkdir()
    network.save(folder / "model.keras")
    (folder / "metrics.json").write_text(json.dumps({"data": data.name}))
    return tmp_path


def ask(server, images, signature="serving_default"):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    return server.predict(request)


def png(pixels, **options):
    """Pack pixels (height, width) or (height, width, 3), uint8, as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def versions(models_dir):
    return sorted(path.name for path in (models_dir / "serving" / "mnist").iterdir())


# --- A whole run ----------------------------------------------------------------------------------


def test_a_network_is_trained_where_there_is_none(exported):
    models_dir, metrics, output = exported
    assert metrics["test_accuracy"] > 0.9  # of 254; chance is 0.1
    assert metrics["train_seconds"] > 0
    assert metrics["network"] == "trained for a moment"
    assert "has left no network for this data set" in output
    file = models_dir / example08.NAME / "metrics.json"
    assert json.loads(file.read_text()) == metrics
    assert versions(models_dir) == ["1"]
    folder = models_dir / "serving" / "mnist" / "1"
    names = {path.name for path in folder.iterdir()}
    assert {"saved_model.pb", "variables", "assets.extra"} <= names


def test_it_prints_signatures_and_how_to_serve(exported):
    models_dir, _, output = exported
    answer = "-> classes int32 (None,), probabilities float32 (None, 10)\n"
    assert f"serving_default: images uint8 (None, 28, 28, 1) {answer}" in output
    assert f"floats: images float32 (None, 28, 28, 1) {answer}" in output
    assert f"files: images string (None,) {answer}" in output
    base = shlex.quote(str(models_dir / "serving" / "mnist"))
    assert f"-v {base}:/models/mnist" in output
    assert f"--model_base_path={base}\n" in output


def test_versions_count_up(trained_dir, sample_dir):
    metrics, _ = run(example08.main, *arguments(sample_dir, trained_dir))
    assert metrics["version"] == 1
    assert metrics["network"] == example08.TRAINED
    assert metrics["train_seconds"] == 0
    (trained_dir / "serving" / "mnist" / "10").mkdir()  # the highest is not the last by its letters
    (trained_dir / "serving" / "mnist" / "notes").mkdir()
    metrics, _ = run(example08.main, *arguments(sample_dir, trained_dir))
    assert metrics["version"] == 11
    assert versions(trained_dir) == ["1", "10", "11", "notes"]


def test_a_network_of_another_data_set_is_not_exported(trained_dir, data):
    (trained_dir / example08.TRAINED / "metrics.json").write_text('{"data": "MNIST"}')
    assert example08.load_network(trained_dir, data) is None


def test_what_was_trained_in_bfloat16_is_exported_in_float32(
    network, trained_dir, sample_dir, monkeypatch
):
    monkeypatch.setattr(example08, "check", lambda folder, model, data: 0.5)
    twin = tf.keras.models.clone_model(network)
    twin.set_weights(network.get_weights())
    for layer in twin.layers[:-1]:
        layer.dtype_policy = "mixed_bfloat16"
    twin.save(trained_dir / example08.TRAINED / "model.keras")
    found = {}
    for flags in ([], ["--precision", "bfloat16"]):
        metrics, _ = run(example08.main, *arguments(sample_dir, trained_dir, *flags))
        version = trained_dir / "serving" / "mnist" / str(metrics["version"])
        casts = (version / "saved_model.pb").read_bytes().count(b"DstT\x12\x020\x0e")
        found[metrics["precision"]] = casts  # casts to type 14, DT_BFLOAT16
    assert found["bfloat16"] > 0
    assert found["float32"] == 0


# --- The answers ----------------------------------------------------------------------------------


def test_a_process_without_this_project_gets_the_network_s_answers(
    exported_network, network, data, tmp_path
):
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "images = tf.constant(np.load('images.npy'))\n"
        "answer = loaded.signatures['serving_default'](images=images)\n"
        "np.savez('answer.npz', **answer)\n"
    )
    np.save(tmp_path / "images.npy", data.test_images)
    command = [sys.executable, "-I", "-c", code, str(exported_network)]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path, stderr=subprocess.DEVNULL)
    expected = tf.nn.softmax(network.predict(data.test_images, verbose=0)).numpy()
    with np.load(tmp_path / "answer.npz") as answer:
        assert answer["classes"].dtype == np.int32
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
        np.testing.assert_array_equal(answer["classes"], expected.argmax(axis=1))


def test_a_server_gets_them_for_any_number_of_images(server, network, data):
    expected = tf.nn.softmax(network.predict(data.test_images, verbose=0)).numpy()
    assert np.ptp(expected.argmax(axis=1)) == 9  # all digits are among them
    for count in (1, 2, 7, len(expected)):
        inputs = example08.as_inputs(data.test_images[:count])
        for signature in ("serving_default", "floats"):
            answer = ask(server, inputs[signature], signature)
            np.testing.assert_allclose(answer["probabilities"], expected[:count], atol=1e-5)
            np.testing.assert_array_equal(answer["classes"], expected[:count].argmax(axis=1))


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (1, 28, 28), (1, 27, 27, 1), (1, 29, 29, 1), (1, 28, 28, 3), ()], ids=str
)
@pytest.mark.parametrize("signature", ["serving_default", "floats"])
def test_another_shape_is_refused(server, signature, shape):
    dtype = {"serving_default": np.uint8, "floats": np.float32}[signature]
    with pytest.raises(RefusalError, match="INVALID_ARGUMENT: Shape of tensor"):
        ask(server, np.zeros(shape, dtype), signature)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", png(np.zeros((9, 9), np.uint8))[:40], png(np.full((9, 9), 7, np.uint8))],
    ids=["empty", "text", "cut off", "one colour"],
)
def test_a_broken_picture_is_refused_and_the_server_goes_on(server, data, content):
    good = png(data.test_images[0, ..., 0])
    with pytest.raises(RefusalError, match="INVALID_ARGUMENT"):
        ask(server, [good, content], "files")
    assert ask(server, [good], "files")["classes"] == ask(server, data.test_images[:1])["classes"]


def test_a_server_can_answer_the_warm_up_requests(exported_network, server, data):
    """The server does not load a version where it cannot."""
    path = exported_network / "assets.extra" / "tf_serving_warmup_requests"
    sizes = {}
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "mnist"
        count = request.inputs["images"].tensor_shape.dim[0].size
        sizes.setdefault(request.model_spec.signature_name, []).append(count)
        answer = server.predict(request)
        expected = ask(server, data.train_images[:count])
        np.testing.assert_array_equal(answer["classes"], expected["classes"])
    assert sizes == {"serving_default": [1, 16], "floats": [1, 16], "files": [1, 16]}


# --- The check before a version is there ----------------------------------------------------------


def test_a_model_that_answers_differently_is_refused(exported_network, network, data):
    other = tf.keras.models.clone_model(network)
    other.set_weights([0.9 * weights for weights in network.get_weights()])
    with pytest.raises(common.UserError, match="signature serving_default does not answer as"):
        example08.check(exported_network, other, data)


def test_what_is_refused_does_not_become_a_version(network, data, tmp_path, monkeypatch):
    folder = tmp_path / "m"
    monkeypatch.setattr(example08, "TOLERANCE", -1.0)
    with pytest.raises(common.UserError, match="nothing was exported"):
        example08.export(network, folder, data)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(example08, "check", lambda folder, model, data: 0.5)
    assert example08.export(network, folder, data) == (folder / "1", 0.5)
    assert not (tmp_path / "m.part").exists()


def test_the_note_on_keras_and_saved_model_save_is_true(network, tmp_path):
    """Loaded in Python it answers; a server's session finds no weights."""
    module = tf.Module()
    module.model = network
    _, given = example08.signatures(network)["serving_default"]
    serve = tf.function(lambda images: {"logits": network(images)}, input_signature=[given])
    tf.saved_model.save(module, str(tmp_path), {"serving_default": serve})
    images = np.zeros((1, 28, 28, 1), np.uint8)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert loaded(images=tf.constant(images))["logits"].shape == (1, 10)
    with pytest.raises(RefusalError, match="FAILED_PRECONDITION: Could not find variable"):
        ask(Version(tmp_path), images)


# --- Pictures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def like_mnist():
    """The function for many files at once: float32 (N, 28, 28, 1)."""
    pixels = tf.TensorSpec([28, 28, 1], tf.float32)
    return tf.function(
        lambda files: tf.map_fn(example08.like_mnist, files, fn_output_signature=pixels),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def test_pictures_in_mnist_s_form_stay_as_they_are(data, like_mnist):
    """Where they have all shades, and no border so faint that it is taken for noise."""
    ink = data.test_images[..., 0]
    full = (ink.max(axis=(1, 2)) == 255) & (ink[:, [0, -1]].max(axis=(1, 2)) == 0)
    full &= [boxes(image, 0) == boxes(image, 50) for image in ink]
    images = data.test_images[full]
    assert len(images) > 100
    found = like_mnist([png(image[..., 0]) for image in images]).numpy()
    assert np.mean((found == images).all(axis=(1, 2, 3))) > 0.98


def boxes(image, threshold):
    """Return first and last row and column of what is above a threshold."""
    return [np.flatnonzero((image > threshold).any(axis=axis))[[0, -1]].tolist() for axis in (0, 1)]


@pytest.mark.real
@pytest.mark.skipif(not PRESENT, reason="lay MNIST's four .gz files in datasets/downloads/mnist")
def test_mnist_s_own_images_hardly_change(like_mnist):
    images = mnist.load("full", REAL).test_images[:1000]
    found = like_mnist([png(image[..., 0]) for image in images]).numpy()
    assert np.mean((found == images).all(axis=(1, 2, 3))) > 0.5
    assert np.abs(found - images).mean() < 0.5  # shades of 255; moved by a pixel: 16


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("dark_on_light", [False, True], ids=["light on dark", "dark on light"])
def test_pictures_become_what_other_code_makes_of_them(
    data, like_mnist, tmp_path, form, dark_on_light
):
    """To a few shades of 255, where moving the digit by a pixel makes 14 of them, on average."""
    files, expected, careful = [], [], []
    for image in data.test_images[:12, ..., 0]:
        canvas = np.zeros((200, 260), np.uint8)  # the digit is not in the middle
        canvas[10:178, 60:228] = np.kron(image, np.ones((6, 6), np.uint8))
        expected.append(sample.like_mnist(np.where(canvas > 50, canvas, 0).astype(np.float32)))
        pixels = (255 - canvas if dark_on_light else canvas) // 2 + 40  # of little contrast
        files.append(png(np.repeat(pixels[..., None], 3, axis=2), format=form))
        (tmp_path / "digit").write_bytes(files[-1])
        careful.append(mnist.read_picture(tmp_path / "digit")[..., 0])
    found = like_mnist(files).numpy()
    assert found.dtype == np.float32
    assert found.min() == 0
    assert 225 < found.max() < 256
    for other in (expected, careful):
        assert np.median(np.abs(found[..., 0] - other).mean(axis=(1, 2))) < 7


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (3, 3), (500, 20)], ids=str)
def test_odd_pictures_fit(size):
    """A line as long as the picture, a dot, a thin stroke."""
    pixels = np.zeros((size[0] + 6, size[1] + 6), np.uint8)
    pixels[3:-3, 3:-3] = 255
    found = example08.like_mnist(png(pixels)).numpy()[..., 0]
    rows, columns = found.any(axis=1), found.any(axis=0)
    assert max(rows.sum(), columns.sum()) == 20
    for filled in (rows, columns):
        middle = np.flatnonzero(filled).mean()
        assert 13 <= middle <= 14.5


# --- Kills, two at once, damaged files ------------------------------------------------------------


def test_a_kill_while_exporting_and_then_two_exports_at_once(
    trained_dir, sample_dir, data, network
):
    """The kill leaves no half version, and does not stand in the way of those that follow."""
    argv = arguments(sample_dir, trained_dir)
    part = trained_dir / "serving" / "mnist.part"
    process = start(example08.__file__, *argv)
    while not (part / "saved_model.pb").exists():  # and then it is checked, which takes a while
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert part.exists()
    assert versions(trained_dir) == []

    processes = [start(example08.__file__, *argv) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not part.exists()
    assert versions(trained_dir) == ["1", "2"]
    expected = network.predict(data.test_images, verbose=0).argmax(axis=1)
    for name in ("1", "2"):
        version = Version(trained_dir / "serving" / "mnist" / name)
        np.testing.assert_array_equal(ask(version, data.test_images)["classes"], expected)


@pytest.mark.parametrize("name", ["model.keras", "metrics.json"])
@pytest.mark.parametrize("damage", ["half", "text", "empty"])
def test_what_example_04_left_is_damaged(trained_dir, sample_dir, capsys, name, damage):
    path = trained_dir / example08.TRAINED / name
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "text": b"[1]", "empty": b""}[damage])
    error = error_of(example08.main, capsys, *arguments(sample_dir, trained_dir))
    assert f"{example08.TRAINED} is damaged" in error
    assert f"python examples/{example08.TRAINED}.py" in error
    assert not (trained_dir / "serving").exists()


def test_a_folder_that_cannot_be_written(trained_dir, sample_dir, capsys):
    (trained_dir / "serving").write_text("a file where a folder should be")
    error = error_of(example08.main, capsys, *arguments(sample_dir, trained_dir))
    assert str(trained_dir / "serving") in error
