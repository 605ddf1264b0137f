"""Checks example 16: scores against naive ones and scikit-learn, nuclei that touch, any picture."""

import dataclasses
import json
import math

import cv2
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
from scipy import ndimage
from sklearn import metrics as reference

from datasets import nuclei
from examples import example16_segmentation_nuclei as example16
from examples.helpers.report import tf
from models import saved
from models.augmentation import random_square

STEPS = 5  # in an epoch
TINY = ["--epochs", "2", "--batch-size", "2"]
SMALLER = f"from examples import example16_segmentation_nuclei as e; e.STEPS = {STEPS}"
BACKGROUND, CORE, RIM = range(3)


@pytest.fixture(scope="module", autouse=True)
def smaller():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example16, "STEPS", STEPS)
        yield


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """The models folder of a short run, and its metrics."""
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir, run(example16.main, *arguments(sample_dir, models_dir, *TINY))[0]


@pytest.fixture(scope="module")
def data(sample_dir):
    return nuclei.load("sample", sample_dir)


def discs(*circles, shape=(60, 80)):
    """Number discs, each given by x, y and radius: uint16."""
    numbers = np.zeros(shape, np.uint16)
    for number, (x, y, radius) in enumerate(circles, 1):
        cv2.circle(numbers, (x, y), radius, number, -1)
    return numbers


def as_probabilities(classes):
    return (0.9 * np.eye(3)[classes] + 0.1 / 3).astype(np.float32)


# --- Classes of pixels, and back to nuclei --------------------------------------------------------


def test_edges_have_a_neighbour_of_another_number():
    numbers = discs((20, 20, 9), (36, 20, 8), (60, 40, 12), (0, 0, 3))
    edges = example16.edges_of(numbers.astype(np.int32))
    for y, x in np.ndindex(numbers.shape):
        around = numbers[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert edges[y, x] == np.any(around != numbers[y, x]), (y, x)


def test_the_core_is_what_lies_deep_in_a_nucleus():
    """As deep as CORE_DEPTH of its deepest pixel, by exact distances; cores do not touch."""
    numbers = discs((20, 20, 9), (36, 20, 8), (60, 40, 12), (0, 0, 3))
    numbers[50, 10] = 5
    classes = example16.classes_of(numbers)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes == BACKGROUND, numbers == 0)
    for number in range(1, 5):
        own = numbers == number
        inner = own & ~example16.edges_of(numbers)
        depth = ndimage.distance_transform_edt(np.pad(inner, 1, mode="edge"))[1:-1, 1:-1]
        expected = depth >= example16.CORE_DEPTH * depth.max()
        assert np.mean((classes == CORE)[own] == expected[own]) > 0.95
        assert 0.1 < np.mean(classes[own] == CORE) < 0.8
    assert classes[50, 10] == CORE  # what is too thin to have a depth
    assert ndimage.label(classes == CORE, np.ones((3, 3)))[1] == 5


def test_two_nuclei_that_touch_are_told_apart():
    """Connected components of the mask join them. One that is too small is none."""
    numbers = discs((20, 20, 9), (36, 20, 8), (60, 40, 12), (5, 5, 1), (30, 50, 5))
    classes = example16.classes_of(numbers)
    classes[numbers == 5] = RIM  # a nucleus without a core is one, too
    assert ndimage.label(numbers > 0)[1] == 4
    found = example16.find_nuclei(as_probabilities(classes))
    assert np.unique(found).tolist() == [0, 1, 2, 3, 4]  # without gaps
    large = np.unique(np.where(numbers == 4, 0, numbers), return_inverse=True)[1]
    large = large.reshape(numbers.shape)
    assert np.array_equal(found > 0, large > 0)
    for number in (1, 2, 3, 4):
        within, counts = np.unique(found[large == number], return_counts=True)
        assert counts.max() > 0.95 * counts.sum(), within  # between two, either may be right
    np.testing.assert_allclose(example16.nuclei_score(found, large)[:8], 1)


@pytest.mark.parametrize(
    ("share", "count"),
    [([1, 0, 0], 0), ([0, 0, 1], 1), ([0.1, 0.3, 0.6], 1), ([0.3, 0.1, 0.6], 0), ([0, 1, 0], 1)],
)
def test_the_same_everywhere_is_one_nucleus_or_none(share, count):
    found = example16.find_nuclei(np.full((20, 30, 3), share, np.float32))
    assert found.shape == (20, 30) and np.all(found == count)


# --- Scores ---------------------------------------------------------------------------------------


def naive_score(found, true):
    """The competition's: for each threshold TP / (TP + FP + FN), nucleus by nucleus."""
    some, others = ([n == i for i in range(1, n.max() + 1)] for n in (found, true))
    iou = [[np.sum(a & b) / np.sum(a | b) for b in others] for a in some]
    scores = []
    for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        hits = sum(any(value > threshold for value in row) for row in iou)
        missed = sum(not any(row[j] > threshold for row in iou) for j in range(len(others)))
        scores.append(hits / max(hits + len(some) - hits + missed, 1))
    return scores


TWO = discs((20, 20, 9), (50, 20, 9))
SCORES = {  # found, true, the score at 0.5
    "the same": (TWO, TWO, 1),
    "other numbers": (np.where(TWO > 0, 3 - TWO, 0), TWO, 1),
    "one of two": (discs((20, 20, 9)), TWO, 1 / 2),
    "one too many": (discs((20, 20, 9), (50, 20, 9), (50, 50, 5)), TWO, 2 / 3),
    "joined": (np.minimum(TWO, 1), TWO, 0),
    "nothing": (0 * TWO, TWO, 0),
    "nothing true": (TWO, 0 * TWO, 0),
    "nothing at all": (0 * TWO, 0 * TWO, 0),
}


@pytest.mark.parametrize(("found", "true", "score"), SCORES.values(), ids=SCORES)
def test_score_of_nuclei(found, true, score):
    scores = example16.nuclei_score(found.astype(np.int32), true)
    assert scores[0] == pytest.approx(score)
    np.testing.assert_allclose(scores, naive_score(found, true))


def test_exactly_half_is_no_hit():
    true = np.zeros((10, 10), np.uint16)
    true[:, :4] = 1
    found = np.where(np.arange(10) < 2, true, 0)
    assert not example16.nuclei_score(found, true).any()
    found[0, 2] = 1
    assert example16.nuclei_score(found, true)[0] == 1


@pytest.mark.parametrize("seed", range(4))
def test_score_of_many_nuclei_is_the_naive_one(seed):
    rng = np.random.default_rng(seed)
    circles = np.column_stack([rng.integers(0, [80, 60], (14, 2)), rng.integers(3, 11, 14)])
    true = discs(*circles.tolist())
    found = discs(*(circles + rng.integers(-2, 3, circles.shape)).tolist())
    true, found = (np.unique(n, return_inverse=True)[1].reshape(n.shape) for n in (true, found))
    scores = example16.nuclei_score(found, true)
    assert 0 < scores[0] < 1 and scores[0] > scores[-1]
    np.testing.assert_allclose(scores, naive_score(found, true))


def test_scores_of_pixels_are_those_of_scikit_learn(data, monkeypatch):
    """All pixels of all images together, whatever their sizes."""
    images = data.test[:3]
    assert len({each.image.shape for each in images}) > 1
    rng, masks = np.random.default_rng(0), []
    for each in images:  # right, but for one pixel in ten
        masks.append((each.instances > 0) ^ (rng.random(each.instances.shape) < 0.1))
    answers = [as_probabilities(mask * CORE) for mask in masks]
    given = iter(answers)
    monkeypatch.setattr(example16, "predict", lambda *_: next(given))
    found = example16.evaluate(None, images)["all"]
    true = np.concatenate([each.instances.ravel() > 0 for each in images])
    mask = np.concatenate([mask.ravel() for mask in masks])
    assert found["iou"] == pytest.approx(reference.jaccard_score(true, mask))
    assert found["dice"] == pytest.approx(reference.f1_score(true, mask))
    bright = np.concatenate([example16.otsu(each.image).ravel() for each in images])
    assert found["otsu_iou"] == pytest.approx(reference.jaccard_score(true, bright))
    for name, some in {
        "score": [example16.find_nuclei(answer) for answer in answers],
        "score_of_components": [ndimage.label(mask)[0] for mask in masks],
        "otsu_score": [ndimage.label(example16.otsu(each.image))[0] for each in images],
    }.items():
        pairs = zip(some, images, strict=True)
        expected = [naive_score(n, each.instances.astype(int)) for n, each in pairs]
        assert found[name] == pytest.approx(np.mean(expected)), name
        if name == "score":
            assert found["score_50"] == pytest.approx(np.mean(expected, axis=0)[0])


# --- Loss and training data -----------------------------------------------------------------------


def test_losses_against_keras_and_by_hand():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    classes = rng.integers(0, 3, (2, 3, 4)).astype(np.uint8)
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    entropy = float(keras(classes, logits))
    common, areas = [0, 0, 0], [0, 0, 0]
    for place in np.ndindex(2, 3, 4):
        exponentials = [math.exp(logit) for logit in logits[place].tolist()]
        for number in (CORE, RIM):
            found, true = exponentials[number] / sum(exponentials), classes[place] == number
            common[number] += found * true
            areas[number] += found + true
    dice = sum(2 * common[number] / (areas[number] + 1) for number in (CORE, RIM)) / 2
    for kind, expected in {
        "cross-entropy": entropy,
        "dice": 1 - dice,
        "both": entropy + 1 - dice,
    }.items():
        values = example16.losses(tf.constant(logits), tf.constant(classes), kind)
        assert float(values["loss"]) == pytest.approx(expected, rel=1e-5), kind
        assert float(values["dice"]) == pytest.approx(dice, rel=1e-5)


def test_a_square_and_its_mask_are_changed_alike():
    """The image is the mask, so that they must remain so, up to contrast and lightness."""
    rng, classes = np.random.default_rng(0), np.zeros((70, 90), np.uint8)
    classes[10:60, 15:40], classes[20:30, 40:80], classes[50:, 70:] = 1, 1, 1
    image = np.repeat(classes[..., None], 3, axis=2).astype(np.float32)
    results = set()
    for _ in range(60):
        part, mask = random_square(image, classes, 64, rng)
        assert (part.shape, part.dtype) == ((64, 64, 3), np.float32)
        assert (mask.shape, mask.dtype) == ((64, 64), np.uint8)
        assert set(np.unique(mask)) <= {0, 1}
        results.add(mask.tobytes())
        low, high = part.min(axis=(0, 1)), part.max(axis=(0, 1))
        if mask.any() and not mask.all():
            assert np.mean((part > (low + high) / 2) == mask[..., None]) > 0.94  # edges are soft
            assert 0.7 < (high - low).min() <= (high - low).max() < 1.4
        assert len(set(np.round(low, 4))) == 3  # each channel has a lightness of its own
    assert len(results) == 60


def test_a_square_is_turned_in_all_ways_and_may_be_larger_than_its_image():
    rng, places = np.random.default_rng(0), []
    wide, classes = np.zeros((5, 50, 3), np.float32), np.zeros((5, 50), np.uint8)
    assert random_square(wide, classes, 32, rng)[0].shape == (32, 32, 3)
    letter = np.zeros((12, 12), np.uint8)
    letter[:8, :3], letter[:3, :6] = 1, 1
    ways = [np.rot90(m, k) for m in (letter, letter[:, ::-1]) for k in range(4)]
    image = np.repeat(letter[..., None], 3, axis=2).astype(np.float32)
    for _ in range(400):
        _, mask = random_square(image, letter, 12, rng)
        places.append(int(np.argmax([np.mean(mask == way) for way in ways])))
    assert np.bincount(places, minlength=8).min() > 20  # 50 of each are expected


# --- As a program ---------------------------------------------------------------------------------


def test_the_metrics(finished, data):
    models_dir, metrics = finished
    text = (models_dir / example16.NAME / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    scores = {"iou", "dice", "score_50", "score", "score_of_components"}
    scores |= {"otsu_iou", "otsu_score"}
    assert all(type(written[name]) is float for name in scores)
    assert written["kinds"].keys() == set(nuclei.KINDS)
    network = example16.UNet(tf.as_dtype(metrics["precision"]), 0)
    saved.read_weights(network, models_dir / example16.NAME, "")
    for kind, of_kind in written["kinds"].items():
        assert of_kind.keys() == scores
        some = [each for each in data.test if nuclei.kind(each.image) == kind]
        alone = example16.evaluate(network, some)
        assert alone.keys() == {"all", kind} and alone["all"] == alone[kind]
        assert alone[kind] == pytest.approx(of_kind)


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    finished, sample_dir, tmp_path, capsys
):
    argv = arguments(sample_dir, tmp_path, *TINY)
    check_ctrl_c(2, example16.main, capsys, *argv)
    check_stopped(start_to_be_killed(example16, "in step", STEPS, *argv, before=SMALLER))
    continued = without_pictures(example16.main, *argv)
    assert len(final_state(tmp_path)[0]) > 30
    assert final_state(tmp_path) == final_state(finished[0])
    assert continued["kinds"] == finished[1]["kinds"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (16, 16), (17, 33), (1000, 37)])
def test_any_size_goes_through_the_network(shape):
    rng, network = np.random.default_rng(0), example16.UNet(tf.float32, 0)
    network.kernel.assign(rng.normal(0, 1, network.kernel.shape))
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    probabilities = example16.predict(network, image)
    assert probabilities.shape == (*shape, 3)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert example16.find_nuclei(probabilities).shape == shape


def test_an_answer_is_the_mean_of_four_views():
    rng, network = np.random.default_rng(0), example16.UNet(tf.float32, 0)
    image = rng.integers(0, 90, (32, 48, 3), np.uint8)
    found = example16.predict(network, image)

    def answer(view):
        return tf.nn.softmax(network(example16.normalise(np.ascontiguousarray(view))[None])[0])

    one, right, down = answer(image), answer(image[:, ::-1]), answer(image[::-1])
    both = answer(image[::-1, ::-1])
    mean = (one + right[:, ::-1] + down[::-1] + both[::-1, ::-1]) / 4
    np.testing.assert_allclose(found, mean, atol=1e-4)
    assert np.abs(found - one).max() > 1e-3
    np.testing.assert_allclose(example16.predict(network, image, views=1), one, atol=1e-4)


def test_light_ground_becomes_dark(data):
    for each in data.test:
        image = example16.normalise(each.image)
        assert (image.dtype, image.shape) == (np.float32, each.image.shape)
        assert abs(image.mean()) < 1e-3 and 0.8 < image.std() <= 1
        mask = each.instances > 0
        assert image[mask].mean() > image[~mask].mean() + 1


PICTURES = {
    "grey.png": lambda rgb: Image.fromarray(rgb).convert("L"),
    "clear.png": lambda rgb: Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 255, "u1")])),
    "sixteen.png": lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 257),
    "one.png": lambda rgb: Image.new("RGB", (1, 1)),
    "wide.jpg": lambda rgb: Image.fromarray(rgb).resize((333, 21)),
    "a $x_{y$ [%] \N{MICROSCOPE}.png": Image.fromarray,
}


@pytest.mark.parametrize("name", PICTURES)
def test_any_picture_can_be_asked(name, finished, data, tmp_path):
    models_dir, _ = finished
    PICTURES[name](data.test[0].image).save(tmp_path / name)
    argv = "--models-dir", models_dir, "--image", tmp_path / name
    found, output = run(example16.main, *argv)
    assert found["nuclei"] >= 0 and 0 <= found["share"] <= 1
    assert f"{found['nuclei']} nuclei, {found['share']:.1%} of the picture" in output
    with Image.open(tmp_path / name) as asked:
        assert np.array(Image.open(models_dir / example16.NAME / "picture.png")).shape[:2] == (
            asked.height,
            asked.width,
        )


def test_a_large_jpeg_is_counted_as_it_is(finished, tmp_path, monkeypatch):
    """Phones take 50 million pixels: at half of the size, small nuclei would be lost."""
    shapes = []
    monkeypatch.setattr(example16, "predict", lambda _, image: shapes.append(image.shape))
    monkeypatch.setattr(example16, "find_nuclei", lambda _: np.zeros((3000, 2000), int))
    Image.new("RGB", (2000, 3000)).save(tmp_path / "a.jpg")
    run(example16.main, "--models-dir", finished[0], "--image", tmp_path / "a.jpg")
    assert shapes == [(3000, 2000, 3)]


def test_other_data_is_learnt_anew(finished, sample_dir, data, monkeypatch, capsys):
    argv = arguments(sample_dir, finished[0], *TINY)
    without_pictures(example16.main, *argv)
    assert "epoch" not in capsys.readouterr().out  # it has come to its end
    first = data.train[0]
    other = first._replace(instances=first.instances * (first.instances > 1))
    changed = dataclasses.replace(data, train=(other, *data.train[1:]))
    monkeypatch.setattr(nuclei, "load", lambda *_: changed)
    without_pictures(example16.main, *argv)
    assert "epoch  1" in capsys.readouterr().out


def test_what_cannot_work_is_one_line(finished, sample_dir, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    told = error_of(example16.main, capsys, "--models-dir", tmp_path, "--image", tmp_path / "a.png")
    assert "run python examples/example16_segmentation_nuclei.py first" in told
    argv = "--models-dir", finished[0], "--image", tmp_path / "missing.png"
    assert "missing.png" in error_of(example16.main, capsys, *argv)
