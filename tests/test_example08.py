"""Checks example 08: what it exports, alone and in a session of a server; pictures; kills."""

import json
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from programs import arguments, error_of, png, run, start, stop_when, wait_while_running
from serving_stand_in import RefusalError, Version, apis, prediction_log_pb2, tf

from datasets import digits, mnist
from examples import example05_mnist_cnn_nn as example05
from examples import example08_serving_export as example08
from examples.helpers import cli
from models import mnist_cnn
from models.saved import write_weights


@pytest.fixture(scope="module")
def network(data):
    """A network that has learned a little, so that its answers differ from image to image."""
    tf.keras.utils.set_random_seed(1)
    network = mnist_cnn.make_network()
    mnist_cnn.train(network, data.train_images, data.train_labels, 4, 64, 2e-3)
    return network


@pytest.fixture(scope="module")
def expected(network, data):
    """What it answers for the test images: probabilities, float32 (254, 10)."""
    return tf.nn.softmax(network.predict(data.test_images, verbose=0)).numpy()


@pytest.fixture(scope="module")
def exported_network(network, data, expected, tmp_path_factory):
    """The folder of one exported version of `network`."""
    folder, classes = example08.export(network, tmp_path_factory.mktemp("served") / "m", data)
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))
    return folder


@pytest.fixture(scope="module")
def server(exported_network):
    return Version(exported_network)


@pytest.fixture
def trained_dir(network, data, tmp_path):
    """A models folder as example 05 leaves it, with the weights of `network`."""
    theirs = example05.Network(tf.float32, seed=0)
    *convolutions, dense = [layer.weights for layer in network.layers if layer.weights]
    pairs = zip(convolutions, theirs.kernels, theirs.biases, strict=True)
    for weights, kernel, bias in [*pairs, (dense, theirs.dense, theirs.dense_biases)]:
        kernel.assign(weights[0].value)
        bias.assign(weights[1].value)
    folder = tmp_path / example08.TRAINED
    folder.mkdir()
    write_weights(theirs, folder)
    (folder / "metrics.json").write_text(json.dumps({"data": data.name}))
    return tmp_path


def ask(server, images, signature="serving_default"):
    request = apis.predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    return server.predict(request)


def versions(models_dir):
    return sorted(path.name for path in (models_dir / "serving" / "mnist").iterdir())


def test_a_network_is_trained_where_there_is_none(exported):
    models_dir, metrics, output = exported
    assert metrics["test_accuracy"] > 0.8  # of 254; chance is 0.1
    assert metrics["network"] == "trained for a moment"
    file = models_dir / example08.NAME / "metrics.json"
    assert json.loads(file.read_text()) == metrics
    assert versions(models_dir) == ["1"]
    answer = "-> classes int32 (None,), probabilities float32 (None, 10)\n"
    assert f"serving_default: images uint8 (None, 28, 28, 1) {answer}" in output
    assert f"floats: images float32 (None, 28, 28, 1) {answer}" in output
    assert f"files: images string (None,) {answer}" in output
    base = shlex.quote(str(models_dir / "serving" / "mnist"))
    assert f"-v {base}:/models/mnist" in output
    assert f"--model_base_path={base}\n" in output


def test_example_05_s_network_is_exported_and_versions_count_up(
    trained_dir, sample_dir, data, expected
):
    metrics, _ = run(example08.main, *arguments(sample_dir, trained_dir))
    assert metrics["version"] == 1
    assert metrics["network"] == example08.TRAINED
    assert metrics["train_seconds"] == 0
    assert metrics["test_accuracy"] == np.mean(expected.argmax(axis=1) == data.test_labels)
    served = trained_dir / "serving" / "mnist"
    answer = ask(Version(served / "1"), data.test_images)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    (served / "10").mkdir()  # the highest is not the last by its letters
    (served / "notes").mkdir()
    metrics, _ = run(example08.main, *arguments(sample_dir, trained_dir, "--precision", "bfloat16"))
    assert versions(trained_dir) == ["1", "10", "11", "notes"]
    # Casts to type 14, DT_BFLOAT16, are in the second graph only.
    graphs = [(served / version / "saved_model.pb").read_bytes() for version in ("1", "11")]
    assert [b"DstT\x12\x020\x0e" in graph for graph in graphs] == [False, True]


def test_a_network_of_another_data_set_is_not_exported(trained_dir):
    images, labels = np.zeros((9, 28, 28, 1), np.uint8), np.zeros(9, np.int32)
    for folder in (trained_dir / example08.TRAINED, trained_dir / "nothing"):
        assert mnist_cnn.trained(folder, "MNIST", images, labels)[1] > 0  # seconds of training


@pytest.mark.parametrize("name", ["weights.index", "metrics.json"])
@pytest.mark.parametrize("damage", ["half", "text", "empty"])
def test_what_example_05_left_is_damaged(trained_dir, sample_dir, capsys, name, damage):
    path = trained_dir / example08.TRAINED / name
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "text": b"[1]", "empty": b""}[damage])
    error = error_of(example08.main, capsys, *arguments(sample_dir, trained_dir))
    assert f"python examples/{example08.TRAINED}.py" in error
    assert not (trained_dir / "serving").exists()


# --- The answers ----------------------------------------------------------------------------------


def test_a_process_without_this_project_gets_them(exported_network, data, expected, tmp_path):
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
    with np.load(tmp_path / "answer.npz") as answer:
        assert answer["classes"].dtype == np.int32
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
        np.testing.assert_array_equal(answer["classes"], expected.argmax(axis=1))


def test_a_server_gets_them_for_any_number_of_images(server, data, expected):
    assert np.ptp(expected.argmax(axis=1)) == 9  # all digits are among them
    for count in (1, 2, 7, len(expected)):
        inputs = example08.as_inputs(data.test_images[:count])
        for signature in ("serving_default", "floats"):
            answer = ask(server, inputs[signature], signature)
            np.testing.assert_allclose(answer["probabilities"], expected[:count], atol=1e-5)
            np.testing.assert_array_equal(answer["classes"], expected[:count].argmax(axis=1))
    # Fractions of a shade count, which Keras would cut off.
    first, second = (ask(server, inputs["floats"] + x, "floats") for x in (0.0005, 0.003))
    assert (first["probabilities"] != second["probabilities"]).any(axis=1).all()


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (1, 28, 28), (1, 27, 27, 1), (1, 29, 29, 1), (1, 28, 28, 3), ()], ids=str
)
def test_another_shape_is_refused(server, shape):
    for signature, dtype in {"serving_default": np.uint8, "floats": np.float32}.items():
        with pytest.raises(RefusalError, match="INVALID_ARGUMENT: Shape of tensor"):
            ask(server, np.zeros(shape, dtype), signature)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Input is empty"),
        (b"no picture", "Unknown image file format"),
        (png(np.zeros((9, 9), np.uint8))[:40], "PNG"),
        (png(np.full((9, 9), 7, np.uint8)), "a picture shows nothing"),
    ],
    ids=["empty", "text", "cut off", "one colour"],
)
def test_a_broken_picture_is_refused_and_the_server_goes_on(server, data, content, reason):
    good = png(data.test_images[0, ..., 0])
    with pytest.raises(RefusalError, match=f"INVALID_ARGUMENT: .*{reason}"):
        ask(server, [good, content], "files")
    assert ask(server, [good], "files")["classes"] == ask(server, data.test_images[:1])["classes"]


def test_a_server_can_answer_the_warm_up_requests(exported_network, server):
    path = exported_network / "assets.extra" / "tf_serving_warmup_requests"
    sizes = set()
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == example08.SERVED
        sizes.add((request.model_spec.signature_name, len(server.predict(request)["classes"])))
    signatures = ("serving_default", "floats", "files")
    assert sizes == {(name, size) for name in signatures for size in example08.WARM_UP_SIZES}


def test_what_answers_differently_does_not_become_a_version(
    exported_network, network, data, tmp_path
):
    other = tf.keras.models.clone_model(network)
    other.set_weights([0.9 * weights for weights in network.get_weights()])
    with pytest.raises(cli.UserError, match="nothing exported: serving_default differs"):
        example08.check(exported_network, other, data.test_images)
    other.set_weights([np.nan * weights for weights in network.get_weights()])
    with pytest.raises(cli.UserError, match="nothing exported"):
        example08.export(other, tmp_path / "m", data)
    assert list((tmp_path / "m").iterdir()) == []


# --- Pictures -------------------------------------------------------------------------------------


def digits_of(files):
    pixels = tf.TensorSpec([28, 28, 1], tf.float32)
    return tf.map_fn(example08.digit_of, tf.constant(files), fn_output_signature=pixels).numpy()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("dark_on_light", [False, True], ids=["light on dark", "dark on light"])
def test_pictures_become_what_other_code_makes_of_them(data, tmp_path, form, dark_on_light):
    """To a few shades of 255, where moving the digit by a pixel makes 14 of them, on average."""
    files, expected, careful = [], [], []
    for image in data.test_images[:12, ..., 0]:
        canvas = np.zeros((200, 260), np.uint8)  # the digit is not in the middle
        canvas[10:178, 60:228] = np.kron(image, np.ones((6, 6), np.uint8))
        expected.append(digits.like_mnist(np.where(canvas > 50, canvas, 0).astype(np.float32)))
        pixels = (255 - canvas if dark_on_light else canvas) // 2 + 40  # of little contrast
        files.append(png(np.repeat(pixels[..., None], 3, axis=2), form))
        (tmp_path / "digit").write_bytes(files[-1])
        careful.append(mnist.read_picture(tmp_path / "digit")[..., 0])
    found = digits_of(files)
    assert found.dtype == np.float32
    assert found.min() == 0 and 225 < found.max() < 256
    for other in (expected, careful):
        assert np.median(np.abs(found[..., 0] - other).mean(axis=(1, 2))) < 7


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (3, 3), (500, 20)], ids=str)
def test_odd_pictures_fit(size):
    """A line as long as the picture, a dot, a thin stroke."""
    pixels = np.pad(np.full(size, 255, np.uint8), 3)
    found = digits_of([png(pixels)])[0, ..., 0]
    places = [np.flatnonzero(found.any(axis=axis)) for axis in (0, 1)]
    assert max(map(len, places)) == 20
    assert all(13 <= place.mean() <= 14.5 for place in places)


# --- Kills, two at once ---------------------------------------------------------------------------


def test_a_kill_while_exporting_and_then_two_exports_at_once(
    trained_dir, sample_dir, data, expected
):
    """The kill leaves no half version, and does not stand in the way of those that follow."""
    argv = arguments(sample_dir, trained_dir)
    part = trained_dir / "serving" / "mnist.part"

    def has_a_graph():  # which is then checked, and that takes a while
        return (part / "saved_model.pb").exists()

    stop_when(start(example08.__file__, *argv), has_a_graph, signal.SIGKILL)
    assert part.exists()
    assert versions(trained_dir) == []
    (part / "saved_model.pb").unlink()

    process = start(example08.__file__, *argv)
    wait_while_running(process, has_a_graph)
    run(example08.main, *argv)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert not part.exists()
    assert versions(trained_dir) == ["1", "2"]
    for path in (trained_dir / "serving" / "mnist").iterdir():
        classes = ask(Version(path), data.test_images)["classes"]
        np.testing.assert_array_equal(classes, expected.argmax(axis=1))
