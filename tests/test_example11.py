"""Checks example 11 on sample data: that what is kept on disk is what the network computes, that
both stages learn what they should and nothing else, that stage 2 goes on after a stop to the very
same weights, that Grad-CAM is what its paper defines, and what --image makes of good and bad
pictures.
"""

import csv
import json
import signal
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import error_of, final_state, run, start, status, without_pictures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import cats_dogs, sample  # noqa: E402
from examples import example11_vgg16_cats_dogs as example11  # noqa: E402
from examples.common import tf  # noqa: E402
from models import sample_vgg16, vgg16  # noqa: E402

CONFIG = sample_vgg16.config(len(sample.OTHER_KINDS))
TINY = "--data sample --train-images 120 --test-images 60 --epochs 8 --fine-tune"
STEPS = 4  # of stage 2 in an epoch
PICTURES = ("learning_curves", "confusion_matrix", "worst_mistakes", "grad_cam")


def tiny(sample_dir, models_dir, *more):
    folders = ["--data-dir", str(sample_dir), "--models-dir", str(models_dir)]
    return [*TINY.split(), *folders, *more]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def finished(sample_dir, models_dir):
    """A run of both stages: metrics and output."""
    return run(example11.main, *tiny(sample_dir, models_dir))


@pytest.fixture(scope="module")
def folder(finished, models_dir):
    return models_dir / example11.NAME


@pytest.fixture(scope="module")
def photographs(sample_dir):
    return cats_dogs.load("sample", sample_dir)


@pytest.fixture(scope="module")
def weights(finished, sample_dir):
    (path,) = (sample_dir / "sample" / "vgg16").glob("*/vgg_16.ckpt")
    return vgg16.read_weights(path, CONFIG)


@pytest.fixture
def network(weights):
    """The sample VGG16 in float32 with a top layer for two classes."""
    rng = np.random.default_rng(1)
    network = vgg16.VGG16(weights, CONFIG, trained=(example11.FINE_TUNED,))
    network.replace_top(rng.normal(0, 0.1, (CONFIG.dense, 2)), rng.normal(size=2))
    return network


def folder_of(photographs, chosen, path):
    """Lay photographs in a folder as Kaggle's test set has them, 1.jpg and so on."""
    path.mkdir()
    for number, photograph in enumerate(chosen, 1):
        (path / f"{number}.jpg").write_bytes(photographs.read(photograph))
    return path


# --- A run of both stages -------------------------------------------------------------------------


def test_it_learns(finished):
    """Chance is 0.5."""
    metrics, _ = finished
    assert metrics["test_accuracy"] > 0.9
    assert metrics["test_accuracy_of_top_layer"] > 0.9
    history = metrics["history"]
    assert len(history["loss"]) == example11.FINE_TUNE_EPOCHS
    assert history["validation_loss"][-1] < history["validation_loss"][0]


def test_metrics_and_output(finished, folder):
    metrics, output = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    expected = {"test_accuracy", "train_seconds", "total_seconds", "parameters", "epochs", "seed"}
    expected |= {"precision", "data", "command", "versions", "machine", "history", "fine_tune"}
    assert expected <= metrics.keys()
    assert metrics["data"] == "sample data: drawn cats and dogs"
    assert metrics["left_out"] == 8
    assert "used: 120 training, 60 validation and 60 test images; 8 files left out" in output
    assert f"test accuracy {metrics['test_accuracy_of_top_layer']:.4f}\n" in output
    assert "stage 2" in output
    assert max(map(len, output.splitlines())) < 200


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_not_blank(folder, name):
    with Image.open(folder / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 60
    assert pixels.std() > 5


def test_a_second_run_computes_and_trains_nothing_more(finished, folder, sample_dir, monkeypatch):
    metrics, _ = finished
    monkeypatch.setattr(example11, "fixed_part", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(example11.FineTuning, "train_step", lambda *_: pytest.fail("trained"))
    again = without_pictures(example11.main, *tiny(sample_dir, folder.parent))
    for key in ("test_accuracy", "test_accuracy_of_top_layer", "history"):
        assert again[key] == metrics[key], key


def test_stage_1_alone(finished, folder, sample_dir, tmp_path, monkeypatch):
    """It needs no outputs of block 4, and its last block is as it was published."""
    metrics, _ = finished
    arguments = tiny(sample_dir, tmp_path)
    arguments.remove("--fine-tune")
    alone = without_pictures(example11.main, *arguments)
    assert alone["test_accuracy"] == metrics["test_accuracy_of_top_layer"]
    assert len(alone["history"]["loss"]) == alone["epochs"]
    descriptions = list((tmp_path / example11.NAME).glob("features/*/description.json"))
    assert [json.loads(path.read_text())["layer"] for path in descriptions] == ["fc7"]


def test_only_the_last_block_and_the_top_layer_change(folder, weights):
    with np.load(folder / "trained.npz") as arrays:
        trained = dict(arrays)
    trained.pop("belongs_to")
    layers = {name.split("/")[-2] for name in trained}
    assert layers == {"conv5_1", "conv5_2", "conv5_3", "fc8"}
    for name, array in trained.items():
        assert array.dtype == np.float32
        if "conv5" in name:
            change = np.abs(array - weights[name]).max()
            assert 0 < change < 0.01, name


# --- Both parts of the network --------------------------------------------------------------------


def test_what_is_kept_is_what_the_network_computes(network, photographs, tmp_path):
    chosen = photographs.test[:7]
    images = example11.read_all(photographs, chosen, CONFIG.image_size)
    assert images.shape == (7, 64, 64, 3)
    assert images.dtype == np.uint8
    for layer, whole in (("fc7", network.features), ("pool4", network.lower_blocks)):
        arguments = layer, network, {}, photographs, chosen, "test", tmp_path
        kept = example11.fixed_outputs(*arguments)
        assert len(kept) == 7
        for view, pixels in enumerate((images, images[:, :, ::-1])):
            expected = whole(vgg16.preprocess(pixels, CONFIG.image_size)).numpy()
            np.testing.assert_allclose(kept[:][:, view], expected, rtol=2e-3, atol=1e-2)


def test_both_parts_are_the_whole_network(network, photographs):
    images = example11.read_all(photographs, photographs.test[:5], CONFIG.image_size)
    images = vgg16.preprocess(images, CONFIG.image_size)
    conv5, logits = example11.upper_part(network, network.lower_blocks(images))
    np.testing.assert_allclose(logits, network(images), rtol=1e-4, atol=1e-4)
    assert conv5.shape == (5, 4, 4, 64)


def test_photographs_of_any_shape_become_squares():
    image = np.zeros((40, 90, 3), np.uint8)
    image[:, 45:] = 200
    square = example11.squared(image, 64)
    assert square.shape == (64, 64, 3)
    assert np.all(square[:, :30] == 0)
    assert np.all(square[:, 34:] == 200)


def test_top_layer_takes_features_as_they_are(monkeypatch):
    """Kernel and bias contain the scaling that training works with."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 200).astype(np.int32)
    features = rng.normal(5, 3, (200, 2, 6)) + 6 * labels[:, None, None]
    features = features.astype(np.float16)
    args = example11.common.make_parser("", 20, 16, 0.03).parse_args([])
    kernel, bias, history = example11.train_top((features, labels), (features, labels), args)
    logits = features.mean(axis=1, dtype=np.float32) @ kernel + bias
    assert kernel.dtype == np.float32
    assert example11.accuracy(logits, labels) > 0.95
    per_view = features.astype(np.float32).reshape(-1, 6) @ kernel + bias
    loss = float(example11.mean_loss(per_view, np.repeat(labels, 2)))
    assert loss == pytest.approx(min(history["validation_loss"]), rel=1e-3)


# --- Grad-CAM -------------------------------------------------------------------------------------


def test_grad_cam_is_what_the_paper_defines(network, photographs):
    """A channel's weight is its mean gradient: how the logit changes with the whole map."""
    images = example11.read_all(photographs, photographs.test[:3], CONFIG.image_size)
    maps, probabilities = example11.grad_cam(network, images)
    pool4 = network.lower_blocks(vgg16.preprocess(images, CONFIG.image_size))
    conv5, logits = (tensor.numpy() for tensor in example11.upper_part(network, pool4))
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-5)

    def logits_of(conv5):
        features = network.hidden(vgg16.pool(tf.constant(conv5)))
        return network.dense("fc8", features).numpy()

    chosen, step = logits.argmax(axis=1), 1e-3
    weights = np.zeros((3, conv5.shape[-1]))
    for channel in range(conv5.shape[-1]):
        shifted = [conv5.copy(), conv5.copy()]
        for sign, array in zip((1, -1), shifted, strict=True):
            array[..., channel] += sign * step
        difference = logits_of(shifted[0]) - logits_of(shifted[1])
        weights[:, channel] = difference[range(3), chosen] / (2 * step) / conv5[0, ..., 0].size
    expected = np.maximum(np.einsum("nhwc,nc->nhw", conv5, weights), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(maps, expected, atol=0.02)


# --- Stopped in stage 2, and continued ------------------------------------------------------------

BREAK = """
    import contextlib, os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from examples import common, example11_vgg16_cats_dogs as example11

    number, when = getattr(signal, sys.argv[2]), int(sys.argv[3])
    sys.argv[1:] = sys.argv[4:]

    def fine_tune(tuning, *rest, fine_tune=example11.fine_tune, ctrl_c=common.ctrl_c):
        @contextlib.contextmanager
        def broken_after_a_step():
            with ctrl_c() as stop_asked:
                yield lambda: break_after_a_step() or stop_asked()

        def break_after_a_step():
            if int(tuning.step) == when:
                os.kill(os.getpid(), number)

        common.ctrl_c = broken_after_a_step
        fine_tune(tuning, *rest)

    example11.fine_tune = fine_tune
    common.run(example11.main)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_that_was_stopped_ends_with_the_same_weights(finished, folder, sample_dir, tmp_path):
    metrics, _ = finished
    state = final_state(folder.parent, "tuned", "history")
    processes = {}
    for name, when in (("SIGINT", STEPS + 2), ("SIGKILL", 2 * STEPS + 1)):
        script = ["-c", textwrap.dedent(BREAK), ROOT, name, when]
        processes[name] = start(*script, *tiny(sample_dir, tmp_path / name))
    for name, process in processes.items():
        output, errors = process.communicate(timeout=120)
        assert process.returncode == {"SIGINT": 130, "SIGKILL": -9}[name], errors
        assert "Traceback" not in errors
        if name == "SIGINT":
            assert "stopped; saved " in output
            assert "the same command goes on" in errors.splitlines()[-1]
        tf.random.set_seed(7)  # whatever another example has left behind
        continued = without_pictures(example11.main, *tiny(sample_dir, tmp_path / name))
        found = final_state(tmp_path / name, "tuned", "history")
        assert found.keys() == state.keys()
        assert len(found) == 9
        assert [key for key in state if found[key] != state[key]] == []
        assert continued["test_accuracy"] == metrics["test_accuracy"]


# --- Pictures of one's own ------------------------------------------------------------------------


def image_flags(sample_dir, folder, path):
    folders = ["--data-dir", str(sample_dir), "--models-dir", str(folder.parent)]
    return ["--data", "sample", *folders, "--image", str(path)]


def test_a_folder_of_pictures(folder, photographs, sample_dir, tmp_path, capsys):
    chosen = photographs.test[:40]
    pictures = folder_of(photographs, chosen, tmp_path / "pictures")
    (pictures / "41.jpg").write_bytes(photographs.read(chosen[0])[:500])
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(pictures / "7.png")  # as 7.jpg is there
    (pictures / "notes.txt").write_text("no picture")
    result = example11.main(image_flags(sample_dir, folder, pictures))
    output = capsys.readouterr().out
    assert output.count("left out: ") == 1
    assert "41.jpg" in output
    assert "and 25 more" in output
    with (folder / "predictions.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label"]
    numbers = [int(number) for number, _ in rows]
    assert sorted(numbers) == numbers  # 2 before 10
    assert len(numbers) == 41
    assert numbers.count(7) == 2
    found = np.array([float(label) for number, label in rows if number != "7"])
    expected = [p.label for number, p in enumerate(chosen, 1) if number != 7]
    assert np.all((found >= 0) & (found <= 1))
    assert np.mean((found > 0.5) == expected) > 0.9  # label is the probability of a dog
    np.testing.assert_allclose(np.sum(result["probabilities"], axis=1), 1, rtol=1e-5)
    with Image.open(folder / "predictions.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_one_picture(folder, photographs, sample_dir, tmp_path, capsys):
    picture = tmp_path / "my cat.jpg"
    picture.write_bytes(photographs.read(photographs.test[0]))
    result = example11.main(image_flags(sample_dir, folder, picture))
    assert result["ids"] == ["my cat"]
    (row,) = result["probabilities"]
    answer = cats_dogs.CLASS_NAMES[int(np.argmax(row))]
    assert f"{max(row):8.2%}  {answer}  my cat\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "there is no"),
        (lambda path: path.write_bytes(b"no picture"), "cannot read"),
        (lambda path: path.mkdir(), "no picture that can be read"),
    ],
    ids=["missing", "no picture", "empty folder"],
)
def test_what_is_no_picture(folder, sample_dir, tmp_path, capsys, make, says):
    path = tmp_path / "a.jpg"
    make(path)
    error = error_of(example11.main, capsys, *image_flags(sample_dir, folder, path))
    assert says in error
    assert "a.jpg" in error


def test_pictures_before_anything_is_trained(sample_dir, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(picture)
    flags = image_flags(sample_dir, tmp_path / "models" / "nothing", picture)
    assert "no trained network" in error_of(example11.main, capsys, *flags)


@pytest.mark.parametrize("damage", ["cut", "other weights", "a name is missing"])
def test_trained_weights_that_do_not_fit(folder, sample_dir, tmp_path, capsys, damage):
    picture = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(picture)
    content = (folder / "trained.npz").read_bytes()
    own = tmp_path / example11.NAME
    own.mkdir()
    with np.load(folder / "trained.npz") as arrays:
        trained = dict(arrays)
    if damage == "cut":
        (own / "trained.npz").write_bytes(content[: len(content) // 2])
    elif damage == "other weights":
        np.savez(own / "trained.npz", **{**trained, "belongs_to": "another"})
    else:
        trained.popitem()
        np.savez(own / "trained.npz", **trained)
    error = error_of(example11.main, capsys, *image_flags(sample_dir, own, picture))
    assert "trained.npz does not fit" in error
    assert "first" in error


# --- What can go wrong ----------------------------------------------------------------------------


def test_below_the_accuracy_asked_for(finished, folder, sample_dir, capsys):
    arguments = tiny(sample_dir, folder.parent, "--min-accuracy", "1.01")
    error = error_of(lambda argv: without_pictures(example11.main, *argv), capsys, *arguments)
    assert "--min-accuracy" in error


def test_a_checkpoint_that_is_damaged(folder, sample_dir, tmp_path, capsys):
    without_pictures(example11.main, *tiny(sample_dir, tmp_path))
    for path in tmp_path.glob("*/checkpoints/*/*.index"):
        path.write_bytes(path.read_bytes()[:20])
    arguments = tiny(sample_dir, tmp_path)
    error = error_of(lambda argv: without_pictures(example11.main, *argv), capsys, *arguments)
    assert "--restart" in error
    code, errors = status(
        lambda argv: without_pictures(example11.main, *argv), capsys, *arguments, "--restart"
    )
    assert (code, errors) == (0, [])
