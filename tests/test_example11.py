"""Checks example 11 on sample data: both stages, what is kept on disk, Grad-CAM, stops, --image."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from programs import (
    arguments,
    check_ctrl_c,
    check_stopped,
    error_of,
    final_state,
    run,
    start_to_be_killed,
    without_pictures,
)

from datasets import cats_dogs, drawings
from datasets.photographs import read_photographs
from examples import example11_vgg16_cats_dogs as example11
from examples.helpers.report import tf
from models import sample_vgg16, vgg16

CONFIG = sample_vgg16.config(len(drawings.OTHER_KINDS))
TINY = ["--train-images", "120", "--test-images", "60", "--epochs", "8"]
STEPS = 4  # of stage 2 in an epoch


def tiny(sample_dir, models_dir, *more):
    return arguments(sample_dir, models_dir, *TINY, *more)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def finished(sample_dir, models_dir):
    """A run of both stages: metrics and output."""
    return run(example11.main, *tiny(sample_dir, models_dir, "--fine-tune"))


@pytest.fixture(scope="module")
def folder(finished, models_dir):
    return models_dir / example11.NAME


@pytest.fixture(scope="module")
def photographs(sample_dir):
    return cats_dogs.load("sample", sample_dir)


@pytest.fixture
def network(weights):
    """The sample VGG16 in float32 with a top layer for two classes."""
    rng = np.random.default_rng(1)
    network = vgg16.VGG16(weights, CONFIG, trained=(example11.TUNED,))
    network.replace_top(rng.normal(0, 0.1, (CONFIG.dense, 2)), rng.normal(size=2))
    return network


def test_it_learns(finished):
    """Chance is 0.5."""
    metrics, output = finished
    assert metrics["test_accuracy"] > 0.9
    assert metrics["test_accuracy_of_top_layer"] > 0.9
    assert (metrics["train_images"], metrics["test_images"], metrics["left_out"]) == (120, 60, 4)
    losses = metrics["history"]["validation_loss"]
    assert len(losses) == example11.FINE_TUNE_EPOCHS
    assert losses[-1] < losses[0]
    assert f"test accuracy {metrics['test_accuracy_of_top_layer']:.4f}\n" in output


def test_a_second_run_computes_and_trains_nothing_more(finished, folder, sample_dir, monkeypatch):
    metrics, _ = finished
    monkeypatch.setattr(example11, "read_photographs", lambda *_: np.zeros((60, 64, 64, 3), "u1"))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/*.npy")}
    again = without_pictures(example11.main, *tiny(sample_dir, folder.parent, "--fine-tune"))
    assert {path: path.stat().st_mtime_ns for path in folder.glob("**/*.npy")} == before
    for key in ("test_accuracy", "test_accuracy_of_top_layer", "history"):
        assert again[key] == metrics[key], key


def test_stage_1_alone(finished, sample_dir, weights, tmp_path):
    """It needs no outputs of block 4, and its last block is as it was published."""
    metrics, _ = finished
    alone = without_pictures(example11.main, *tiny(sample_dir, tmp_path))
    assert alone["test_accuracy"] == metrics["test_accuracy_of_top_layer"]
    sources = list((tmp_path / example11.NAME).glob("features/*/source.json"))
    assert [json.loads(path.read_text())["layer"] for path in sources] == ["features"]
    with np.load(tmp_path / example11.NAME / "trained.npz") as arrays:
        name = "vgg_16/conv5/conv5_2/weights"
        assert np.array_equal(arrays[name], weights[name])


def test_only_the_last_block_and_the_top_layer_change(folder, weights):
    with np.load(folder / "trained.npz") as arrays:
        trained = {name: arrays[name] for name in arrays.files if name != "origin"}
    assert {name.split("/")[-2] for name in trained} == {"conv5_1", "conv5_2", "conv5_3", "fc8"}
    for name, array in trained.items():
        assert array.dtype == np.float32
        if "conv5" in name:
            assert 0 < np.abs(array - weights[name]).max() < 0.01, name


def test_what_is_kept_is_what_the_network_computes(network, photographs, tmp_path):
    chosen = photographs.test[:7]
    images = read_photographs(photographs, chosen, CONFIG.image_size)
    assert (images.shape, images.dtype) == ((7, 64, 64, 3), np.uint8)
    more = network, {}, photographs, [chosen], tmp_path
    (alone,), nothing = example11.remember(*more, pool4=False)
    (beside,), (pool4,) = example11.remember(*more, pool4=True)
    assert np.array_equal(alone[:], beside[:]) and nothing == []
    for kept, whole in ((alone, network.features), (pool4, network.lower_blocks)):
        assert len(kept) == 7
        for view, pixels in enumerate((images, images[:, :, ::-1])):
            expected = whole(vgg16.preprocess(pixels, CONFIG.image_size)).numpy()
            np.testing.assert_allclose(kept[:][:, view], expected, rtol=2e-3, atol=1e-2)


def test_grad_cam_is_what_the_paper_defines(network, photographs):
    """A channel's weight is its mean gradient: how the logit changes with the whole map."""
    images = read_photographs(photographs, photographs.test[:3], CONFIG.image_size)
    maps, probabilities = example11.grad_cam(network, images)
    pool4 = network.lower_blocks(vgg16.preprocess(images, CONFIG.image_size))
    conv5, logits = (tensor.numpy() for tensor in network.upper_layers(pool4))
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-5)

    def logits_of(conv5):
        features = network.hidden(pool4, tf.constant(conv5))
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


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    finished, folder, sample_dir, tmp_path, capsys
):
    """By Ctrl-C in the second epoch of stage 2, and then by a kill in the third."""
    argv = tiny(sample_dir, tmp_path, "--fine-tune")
    check_ctrl_c(STEPS + 2, example11.main, capsys, *argv)
    check_stopped(start_to_be_killed(example11, "in step", STEPS - 1, *argv))
    tf.random.set_seed(7)  # whatever another example has left behind
    continued = without_pictures(example11.main, *argv)
    (found, *others), (state, *rest) = final_state(tmp_path), final_state(folder.parent)
    assert found.keys() == state.keys()
    assert [key for key in state if found[key] != state[key]] == []
    assert others == rest
    assert continued["test_accuracy"] == finished[0]["test_accuracy"]


def answer(models_dir, path, *more):
    """--image with no other flag than where results are: not even the data is named."""
    return run(example11.main, "--models-dir", models_dir, "--image", path, *more)


def test_a_folder_of_pictures(folder, photographs, tmp_path, capsys):
    chosen, pictures = photographs.test[:40], tmp_path / "pictures"
    pictures.mkdir()
    for number, photograph in enumerate(chosen, 1):
        (pictures / f"{number}.jpg").write_bytes(photographs.read(photograph))
    (pictures / "41.jpg").write_bytes(photographs.read(chosen[0])[:500])
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(pictures / "7.png")  # as 7.jpg is there
    (pictures / "notes.txt").write_text("no picture")
    result, output = answer(folder.parent, pictures)
    left_out = output + capsys.readouterr().out
    assert left_out.count("left out: ") == 2
    assert "41.jpg" in left_out and "notes.txt" in left_out
    with (folder / "predictions.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label"]
    ids = [number for number, _ in rows]
    assert len(set(ids)) == len(ids) == 41  # none twice
    assert {"7.jpg", "7.png"} <= set(ids)
    numbers = [int(number.partition(".")[0]) for number in ids]
    assert sorted(numbers) == numbers  # 2 before 10
    found = np.array([float(label) for number, label in rows if "7." not in number])
    expected = [p.label for number, p in enumerate(chosen, 1) if number != 7]
    assert np.all((found >= 0) & (found <= 1))
    assert np.mean((found > 0.5) == expected) > 0.9  # label is the probability of a dog
    np.testing.assert_allclose(np.sum(result["probabilities"], axis=1), 1, rtol=1e-5)
    with Image.open(folder / "predictions.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(
    "make",
    [lambda path: None, lambda path: path.write_bytes(b"no picture"), lambda path: path.mkdir()],
    ids=["missing", "no picture", "empty folder"],
)
def test_what_is_no_picture(folder, tmp_path, capsys, make):
    path = tmp_path / "a.jpg"
    make(path)
    flags = "--models-dir", folder.parent, "--image", path
    assert "a.jpg" in error_of(example11.main, capsys, *flags)


@pytest.mark.parametrize("damage", ["none yet", "cut", "moved", "other weights"])
def test_trained_weights_that_cannot_be_used(folder, weights, tmp_path, capsys, damage):
    """After a training on sample data, nothing is downloaded: what is missing is named."""
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    own, flags, told = tmp_path / example11.NAME / "trained.npz", [], "trained.npz"
    own.parent.mkdir()
    content = (folder / "trained.npz").read_bytes()
    if damage == "cut":
        own.write_bytes(content[: len(content) // 2])
    elif damage == "other weights":
        own.write_bytes(content)
        other = {name: array + np.float32(1e-3) for name, array in weights.items()}
        np.savez(tmp_path / "other.npz", **other)
        flags, told = ["--weights", tmp_path / "other.npz"], "does not belong to"
    elif damage == "moved":
        with np.load(folder / "trained.npz") as arrays:
            arrays = dict(arrays)
        origin = re.sub(r'"base": "[^"]*"', '"base": "/gone/vgg_16.ckpt"', str(arrays["origin"]))
        np.savez(own, **arrays | {"origin": origin})
        told = "needs /gone/vgg_16.ckpt, which is missing: --weights"
    flags += ["--models-dir", tmp_path, "--image", tmp_path / "a.png"]
    assert told in error_of(example11.main, capsys, *flags)
