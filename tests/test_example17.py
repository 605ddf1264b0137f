"""Checks example 17: losses and errors against naive loops, episodes, --image, --photos, stops."""

import dataclasses
import functools
import json
import os

import numpy as np
import pytest
from PIL import Image
from programs import (
    arguments,
    check_ctrl_c,
    check_stopped,
    error_of,
    final_state,
    one_line_of,
    run,
    start_to_be_killed,
    without_pictures,
)
from sklearn import manifold
from sklearn.neighbors import NearestNeighbors

from datasets import cats_dogs, omniglot, photographs
from datasets.files import DataError
from examples import example17_similarity_omniglot as example17
from examples.helpers.report import tf
from models import retrieval, vgg16

STEPS = 5  # in an epoch
TINY = ["--epochs", "2", "--batch-size", "50"]
SMALLER = f"from examples import example17_similarity_omniglot as e; e.STEPS = {STEPS}"


@pytest.fixture(scope="module", autouse=True)
def smaller():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example17, "STEPS", STEPS)
        patch.setattr(manifold, "TSNE", functools.partial(manifold.TSNE, max_iter=250))
        yield


@pytest.fixture(scope="module")
def data(sample_dir):
    return omniglot.load("sample", sample_dir, size=example17.SIZE)


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """The models folder of a short run, its metrics and its output."""
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir, *run(example17.main, *arguments(sample_dir, models_dir, *TINY))


def quick(*argv):
    """Run the example without its pictures, and without what t-SNE takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example17, "plot_plane", lambda embed, drawings, path: path)
        return without_pictures(example17.main, *argv)


# --- Data -----------------------------------------------------------------------------------------


def test_drawings_are_made_smaller(data, sample_dir):
    whole = omniglot.load("sample", sample_dir)
    assert data.images.shape == (60, 20, 35, 35)
    for small, large in [(data.images, whole.images)] + [
        (getattr(each, part), getattr(other, part))
        for each, other in zip(data.runs, whole.runs, strict=True)
        for part in ("training", "test")
    ]:
        means = large.reshape(*large.shape[:-2], 35, 3, 35, 3).mean(axis=(-3, -1))
        assert np.abs(small - means).max() <= 0.51


@pytest.mark.parametrize(
    ("count", "held_back"),
    [(2, [1]), (5, [4]), (8, [7]), (9, [0, 8]), (30, [5, 13, 21, 29])],
)
def test_whole_alphabets_are_held_back(data, count, held_back):
    """Never all of them, and never none."""
    names, of_each = tuple(map(str, range(count))), np.arange(count * 3, dtype=np.int32) // 3
    images = np.arange(count * 3 * 20, dtype=np.uint16).reshape(count * 3, 20, 1, 1)
    some = dataclasses.replace(data, images=images, alphabets=names, alphabet=of_each)
    assert np.flatnonzero(some.held_back).tolist() == [
        3 * i + j for i in held_back for j in (0, 1, 2)
    ]
    runs = some.validation_runs
    assert len(runs) == 20 * len(held_back)
    asked = set()
    for each in runs:
        shown, test = each.training.ravel() // 20, each.test.ravel() // 20  # numbers of characters
        assert np.array_equal(test, shown[each.answers])
        assert set(of_each[shown]) == set(of_each[test]) and of_each[shown[0]] in held_back
        assert len(set(each.training.ravel() % 20)) == len(set(each.test.ravel() % 20)) == 1
        assert each.training.ravel()[0] % 20 != each.test.ravel()[0] % 20  # by another person
        asked |= set(each.test.ravel().tolist())
    assert len(asked) == 20 * 3 * len(held_back)  # each drawing is asked once


def test_one_alphabet_is_not_enough(sample_dir, monkeypatch):
    characters = omniglot._characters

    def of_one(files):
        return {name: x for name, x in characters(files).items() if name < "Alphabet_2"}

    monkeypatch.setattr(omniglot, "_characters", of_one)
    assert "it takes two" in one_line_of(DataError, omniglot.load, "sample", sample_dir)


def test_each_character_becomes_eight(data):
    some = data.images[:3]
    turned = example17.turned(some)
    assert turned.shape == (24, 20, 35, 35)
    for i in range(3):
        of_one = [turned[i + 3 * k, 7] for k in range(8)]
        assert len({image.tobytes() for image in of_one}) == 8
        expected = [np.rot90(x, k) for x in (some[i, 7], np.fliplr(some[i, 7])) for k in range(4)]
        assert {x.tobytes() for x in expected} == {image.tobytes() for image in of_one}
        for k in range(8):  # all drawings in the same way
            way = [np.array_equal(of_one[k], x) for x in expected].index(True)
            other = [some[i, 3], np.fliplr(some[i, 3])][way // 4]
            assert np.array_equal(turned[i + 3 * k, 3], np.rot90(other, way % 4))


def test_an_episode_has_different_drawings_of_different_characters():
    drawings = np.arange(30 * 20, dtype=np.uint16).reshape(30, 20, 1, 1)
    rng, seen, first = np.random.default_rng(0), set(), set()
    for _ in range(60):
        numbers = example17.episode(drawings, 6, rng).ravel()
        assert len(set(numbers)) == 6 * example17.OF_EACH == len(numbers)
        characters = (numbers // 20).reshape(6, -1)
        assert np.all(characters == characters[:, :1]) and len(set(characters[:, 0])) == 6
        seen |= set(characters[:, 0])
        first |= set(numbers.reshape(6, -1)[:, 0] % 20)
    assert len(seen) == 30 and len(first) == 20


# --- Losses and errors ----------------------------------------------------------------------------


def naive_losses(x, labels, drawings):
    """Each loss by loops over all drawings."""
    count, distance = len(x), lambda i, j: float(np.sum((x[i] - x[j]) ** 2))
    prototypes, triplets, like, unlike = [], [], [], []
    centres = range(0, count, drawings)
    for i in range(count):
        if i not in centres:
            logits = [-distance(i, c) / example17.TEMPERATURE for c in centres]
            right = logits[i // drawings]
            prototypes.append(np.log(np.sum(np.exp(np.array(logits) - right))))
        same = [distance(i, j) for j in range(count) if labels[i] == labels[j]]
        others = [distance(i, j) for j in range(count) if labels[i] != labels[j]]
        triplets.append(max(0, max(same) ** 0.5 - min(others) ** 0.5 + example17.MARGIN))
        like += [distance(i, j) for j in range(count) if labels[i] == labels[j] and i != j]
        unlike += [max(0, example17.MARGIN - d**0.5) ** 2 for d in others]
    contrastive = np.mean(like) / 2 + np.mean(unlike) / 2
    return {"prototypes": np.mean(prototypes), "triplet": np.mean(triplets)} | {
        "contrastive": contrastive
    }


@pytest.mark.parametrize("name", example17.LOSSES)
@pytest.mark.parametrize("width", [0.1, 0.3, 2])
def test_losses_are_the_naive_ones(name, width):
    """Where embeddings are near each other, and where they are beyond the margin."""
    x = np.random.default_rng(0).normal(0, width, (20, 8)).astype(np.float32)
    x += 2 * width * np.eye(4, 8, dtype=np.float32).repeat(5, axis=0)
    labels = np.repeat(np.arange(4, dtype=np.int32), 5)
    expected = naive_losses(x.astype(float), labels, 5)[name]
    distances = example17.squared_distances(tf.constant(x), tf.constant(x))
    found = example17.LOSSES[name](distances, tf.constant(labels))
    assert expected > 0
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_gradients_are_numbers_where_drawings_are_equal():
    x = tf.Variable(tf.zeros([10, 4]))
    labels = tf.repeat(tf.range(2), 5)
    for loss in example17.LOSSES.values():
        with tf.GradientTape() as tape:
            value = loss(example17.squared_distances(x, x), labels)
        assert np.isfinite(tape.gradient(value, x)).all()


def test_one_shot_error_is_that_of_the_nearest_neighbour():
    rng, runs, wrong = np.random.default_rng(0), [], []
    for _ in range(10):
        shown = rng.integers(0, 256, (20, 6, 6)).astype(np.uint8)
        answers = rng.permutation(20).astype(np.int32)
        noise = rng.normal(0, 250, (20, 6, 6))
        asked = np.clip(shown[answers] + noise, 0, 255).astype(np.uint8)
        runs.append(omniglot.Run(shown, asked, answers))
        rows = [x.reshape(20, -1) / 255 for x in (shown, asked)]
        nearest = NearestNeighbors(n_neighbors=1).fit(rows[0]).kneighbors(rows[1])[1][:, 0]
        naive = [np.argmin([np.sum((a - s) ** 2) for s in rows[0]]) for a in rows[1]]
        assert nearest.tolist() == naive
        wrong += [n != a for n, a in zip(nearest, answers, strict=True)]
    error = example17.one_shot_error(lambda x: x.reshape(len(x), -1) / 255.0, runs)
    assert error == pytest.approx(np.mean(wrong)) and 0.05 < error < 0.9


# --- As a program ---------------------------------------------------------------------------------


def test_the_metrics(finished, data):
    models_dir, metrics, output = finished
    text = (models_dir / example17.NAME / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    for name in ("one_shot_error", "error_of_pixels", "error_untrained", "test_accuracy"):
        assert type(written[name]) is float and 0 < written[name] < 1
    assert metrics["test_accuracy"] == 1 - metrics["one_shot_error"]
    assert metrics["error_untrained"] < 0.9  # guessing is wrong in 0.95 of the cases
    rows = [[x.reshape(20, -1) for x in (each.training, each.test)] for each in data.runs]
    found = [NearestNeighbors(n_neighbors=1).fit(a / 255).kneighbors(b / 255)[1] for a, b in rows]
    right = [f[:, 0] == each.answers for f, each in zip(found, data.runs, strict=True)]
    assert metrics["error_of_pixels"] == pytest.approx(1 - np.mean(right))
    untrained = f"{metrics['error_untrained']:.4f} by the untrained network"
    assert f"error: {metrics['error_of_pixels']:.4f} by pixels, {untrained}" in output


@pytest.mark.parametrize("loss", ["triplet", "contrastive"])
def test_other_losses_learn(loss, sample_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(example17, "STEPS", 40)
    argv = arguments(sample_dir, tmp_path, "--loss", loss, "--epochs", 3, "--batch-size", 50)
    history = quick(*argv)["history"]
    assert history["loss"][2] < history["loss"][0]
    assert history["validation_accuracy"][2] > history["validation_accuracy"][0] + 0.02


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    finished, sample_dir, tmp_path, capsys
):
    argv = arguments(sample_dir, tmp_path, *TINY)
    check_ctrl_c(2, example17.main, capsys, *argv)
    check_stopped(start_to_be_killed(example17, "in step", STEPS, *argv, before=SMALLER))
    continued = quick(*argv)
    assert len(final_state(tmp_path)[0]) > 20
    assert final_state(tmp_path) == final_state(finished[0])
    assert continued["one_shot_error"] == finished[1]["one_shot_error"]


def test_other_data_is_learnt_anew(finished, sample_dir, data, monkeypatch, capsys):
    argv = arguments(sample_dir, finished[0], *TINY)
    quick(*argv)
    assert "epoch" not in capsys.readouterr().out  # it has come to its end
    changed = dataclasses.replace(data, images=data.images[:, ::-1])
    monkeypatch.setattr(omniglot, "load", lambda *_: changed)
    quick(*argv)
    assert "epoch  1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--batch-size 9", "--batch-size 9 is not within 10 to 1920;"),
        ("--batch-size 5000", "--batch-size 5000 is not within 10 to 1920;"),
        ("--train-images 40", "--batch-size 200 is not within 10 to 80; see also --train-images"),
        ("--train-images 10", "--batch-size 200 is not within 10 to 0; see also --train-images"),
        ("--photos {folder}", "--photos is where --image looks"),
        ("--image {folder}/missing.png", "missing.png"),
        ("--image {folder}/a.png --photos {folder}/missing", "cannot read"),
        ("--image {folder}/a.png --photos {folder}/empty", "has no picture that can be read"),
        ("--image {folder}/a.png --photos {folder}/a.png", "it is no whole zip archive"),
    ],
)
def test_what_cannot_work_is_one_line(flags, told, sample_dir, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    argv = arguments(sample_dir, tmp_path, *flags.format(folder=tmp_path).split())
    assert told in error_of(example17.main, capsys, *argv)


# --- Photographs ----------------------------------------------------------------------------------


def test_a_photograph_finds_itself_first(sample_dir, tmp_path, monkeypatch):
    data = cats_dogs.load("sample", sample_dir, small=True)
    data = dataclasses.replace(data, train=data.train[::10], validation=(), test=data.test[::4])
    monkeypatch.setattr(cats_dogs, "load", lambda *_, small: data)
    asked = data.test[3]
    (tmp_path / "asked.jpg").write_bytes(data.read(asked))
    argv = arguments(sample_dir, tmp_path, "--image", tmp_path / "asked.jpg")
    found, output = run(example17.main, *argv)
    assert len(found) == example17.NEIGHBOURS
    cosines = list(found.values())
    assert next(iter(found)) == asked.name
    assert cosines[0] == pytest.approx(1, abs=2e-3) and cosines == sorted(cosines, reverse=True)
    assert cosines[1] < cosines[0]
    assert output.index(asked.name) == min(output.index(name) for name in found)
    kind = asked.name.split("/")[1][:3]
    assert np.mean([name.split("/")[1].startswith(kind) for name in found]) > 0.7
    assert (tmp_path / example17.NAME / "neighbours.png").stat().st_size > 0


def test_cosines_are_those_of_the_features(weights, tmp_path):
    network = vgg16.VGG16(weights, vgg16.Config.of(weights))
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    features = network.features(vgg16.preprocess(images, 64)).numpy().astype(float)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    others = np.arange(1, 5)
    more = (lambda some: images[some]), (lambda some: some.tobytes()), tmp_path
    found = retrieval.cosines(network, {}, images[0], others, *more)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rows[1:] @ rows[0], atol=2e-3)  # float16 on disk


@pytest.fixture
def own(tmp_path):
    """A folder with pictures at any depth, some files that are none, and a name not in UTF-8."""
    folder = tmp_path / "own"
    (folder / "deep" / "er").mkdir(parents=True)
    colours = {"red.png": (200, 30, 30), "deep/green.jpg": (30, 200, 30)}
    colours |= {"deep/er/blue.webp": (30, 30, 200), os.fsdecode(b"gr\xe9y.png"): (99, 99, 99)}
    for number, (name, colour) in enumerate(colours.items()):
        noise = np.random.default_rng(number).normal(0, 30, (50, 60, 3))
        picture = np.clip(colour + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / name)
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:-500])
    (folder / "notes.txt").write_text("no picture")
    (folder / "._red.png").write_bytes(b"macOS")
    return folder


def test_pictures_of_a_flat_folder(own, sample_dir, tmp_path, capsys):
    data = photographs.load_pictures(own, tmp_path / "reports")
    assert data.left_out.keys() == {"cut.png", "notes.txt"}
    assert data.name == "4 pictures" and data.validation == data.test == ()
    assert "2 files left out" in data.summary(4)
    argv = arguments(sample_dir, tmp_path, "--photos", own, "--image", own / "deep" / "green.jpg")
    found, output = run(example17.main, *argv)
    assert next(iter(found)) == "deep/green.jpg"
    assert found.keys() == {"red.png", "deep/green.jpg", "deep/er/blue.webp", r"gr\udce9y.png"}
    output.encode()  # as a terminal does
    again, _ = run(example17.main, *argv)  # from what is kept on disk
    assert again == found
    Image.fromarray(np.zeros((9, 9, 3), "u1")).save(own / "red.png")  # another picture
    changed, _ = run(example17.main, *argv)
    assert changed["red.png"] != found["red.png"]
    del changed["red.png"]
    assert changed.items() <= found.items()
