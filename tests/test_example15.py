"""Checks example 15: scores against pycocotools, boxes, losses, stopped runs, one's own photos."""

import contextlib
import dataclasses
import io
import json
import math

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
    png,
    run,
    start_to_be_killed,
    without_pictures,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets import bccd, voc
from datasets.files import DataError
from examples import example15_detection_bccd as example15
from examples.helpers.report import tf
from models import boxes as boxes_module
from models import vgg16

TINY = ["--train-images", "24", "--epochs", "2"]
STEPS = 6  # in an epoch


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """The models folder of a short run, its metrics, and what it has evaluated in the end."""
    models_dir, evaluated = tmp_path_factory.mktemp("models"), []
    evaluate = example15.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            example15, "evaluate", lambda *given: evaluated.append(given) or evaluate(*given)
        )
        metrics, _ = run(example15.main, *arguments(sample_dir, models_dir, *TINY))
    return models_dir, metrics, evaluated[-1]


def random_boxes(rng, count, whole=False):
    """Draw boxes (count, 4), many of which overlap; whole: with whole numbers."""
    corners, sides = rng.uniform(0, 80, (count, 2)), rng.uniform(15, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    return np.rint(boxes) if whole else boxes


# --- Average precision ----------------------------------------------------------------------------


def coco(found, photographs):
    """Return precision (classes, 10, 101) as pycocotools computes it; -1 becomes NaN."""
    numbers = range(len(found[0]))
    truth, results = [], []
    for image, (of_classes, (_, boxes, labels)) in enumerate(zip(found, photographs, strict=True)):
        for number, (some, scores) in enumerate(of_classes):
            for box, score in zip(some, scores, strict=True):
                entry = {"image_id": image, "category_id": number, "score": float(score)}
                results.append(entry | {"bbox": [*box[:2], *(box[2:] - box[:2])]})
        for box, label in zip(boxes.astype(float), labels, strict=True):
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": int(label)}
            x, y, width, height = *box[:2], *(box[2:] - box[:2])
            entry |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            truth.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": image} for image in range(len(found))],
            "categories": [{"id": number} for number in numbers],
            "annotations": truth,
        }
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1].transpose(2, 0, 1)
    return np.where(precision < 0, np.nan, precision)


def random_case(seed, whole, digits):
    """Make photographs and detections of 4 classes: of 2 nothing is found, of 3 nothing is there.

    The first photograph has no object, in the second nothing is found; some objects and some boxes
    are there twice. Scores are rounded, so that many are equal.
    """
    rng, photographs, found = np.random.default_rng(seed), [], []
    for image in range(12):
        labels = rng.integers(0, 3, 0 if image == 0 else 9)
        truth = random_boxes(rng, len(labels), whole)
        truth[5:6] = truth[4:5]
        photographs.append((None, truth.astype(np.float32), labels))
        of_classes = []
        for number in range(4):
            near = truth[labels == number] + rng.normal(0, 3, (np.sum(labels == number), 4))
            near = np.rint(near) if whole else near
            some = np.concatenate([near, near[:1], random_boxes(rng, 3, whole)])
            some = some[: 0 if image == 1 or number == 2 else None]
            scores = np.sort(rng.random(len(some)).round(digits))[::-1]
            of_classes.append((some[rng.permutation(len(some))], scores))
        found.append(of_classes)
    return found, photographs


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("seed", "digits"), [(0, 1), (1, 1), (2, 0), (3, 9)])
def test_average_precision_is_that_of_pycocotools(seed, digits, whole):
    found, photographs = random_case(seed, whole, digits)
    curves, expected = example15.evaluate(found, photographs), coco(found, photographs)
    assert 0.05 < np.nanmean(expected) < 0.9
    np.testing.assert_allclose(curves, expected, atol=1e-6)
    assert np.isnan(curves[3]).all() and np.all(curves[2] == 0)
    assert np.isfinite(np.nanmean(curves[:, 0]))


def test_the_metrics_are_those_of_pycocotools(finished):
    models_dir, metrics, (found, photographs) = finished
    expected = coco(found, photographs)
    assert metrics["map_50"] == pytest.approx(np.nanmean(expected[:, 0]), abs=1e-6)
    assert metrics["map_50"] > 0.1  # or there is nothing to compare
    assert metrics["map"] == pytest.approx(np.nanmean(expected), abs=1e-6)
    for number in range(3):
        np.testing.assert_allclose(
            example15.evaluate(found, photographs)[number], expected[number], atol=1e-6
        )
    errors = []
    for of_classes, (_, _, labels) in zip(found, photographs, strict=True):
        for number, (_, scores) in enumerate(of_classes):
            errors.append(abs(sum(s > example15.COUNTED for s in scores) - sum(labels == number)))
    assert metrics["count_error"] == pytest.approx(sum(errors) / len(errors))
    text = (models_dir / example15.NAME / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert all(type(written[name]) is float for name in ("map_50", "map", "count_error"))
    assert written["class_names"] == list(bccd.CLASS_NAMES)


SQUARE = [0, 0, 10, 10]
MATCHES = {  # boxes, the surest first; objects; threshold; hits
    "found twice": ([SQUARE, SQUARE], [SQUARE], 0.5, [1, 0]),
    "there twice": ([SQUARE, SQUARE, SQUARE], [SQUARE, SQUARE], 0.5, [1, 1, 0]),
    "just enough": ([[0, 0, 5, 10]], [SQUARE], 0.5, [1]),
    "just not": ([[0, 0, 5, 10]], [SQUARE], 0.55, [0]),
    "the better of two": ([[0, 0, 10, 9], [0, 0, 10, 6]], [[0, 0, 10, 6], SQUARE], 0.5, [1, 1]),
    "the second best": ([SQUARE, SQUARE], [[0, 0, 10, 6], SQUARE], 0.5, [1, 1]),
    "no object": ([SQUARE], np.zeros((0, 4)), 0.5, [0]),
    "no box": (np.zeros((0, 4)), [SQUARE], 0.5, []),
}


@pytest.mark.parametrize(("boxes", "truth", "threshold", "hits"), MATCHES.values(), ids=MATCHES)
def test_hits(boxes, truth, threshold, hits):
    found = example15.match(np.array(boxes, float), np.array(truth, np.float32), threshold)
    assert found.tolist() == [bool(hit) for hit in hits]


# --- Boxes ----------------------------------------------------------------------------------------


def naive_overlap(a, b):
    """IoU and generalised IoU (Rezatofighi et al. 2019, algorithm 1) of two boxes."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = width * height / union
    return iou, iou - (hull - union) / hull


@pytest.mark.parametrize("make", [np.array, tf.constant])
def test_overlap_is_what_the_paper_defines(make):
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 30), random_boxes(rng, 20)
    a[0] = b[0]
    expected = np.array([[naive_overlap(x, y) for y in b] for x in a])
    assert expected.min() < -0.5 and expected.max() == 1
    iou, giou = boxes_module.overlap(make(a)[:, None], make(b))
    np.testing.assert_allclose(np.stack([iou, giou], axis=-1), expected, atol=1e-12)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_suppression_is_that_of_tensorflow(threshold):
    """And stops at MOST boxes, as that does at 0.9."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        boxes, scores = random_boxes(rng, 150), rng.random(150)
        kept = example15.suppress(boxes, scores, threshold)
        expected = tf.image.non_max_suppression(boxes, scores, example15.MOST, threshold)
        assert kept == expected.numpy().tolist()
    assert example15.suppress(np.zeros((0, 4)), np.zeros(0), 0.5) == []


def test_detections_are_the_sure_boxes_within_the_image(monkeypatch):
    """Of two views the mean. Each class has its own; what is below the lowest score is none."""
    detector = example15.Detector(2, None, tf.float32, seed=0)
    rng = np.random.default_rng(0)
    logits = np.full((1, 30, 40, 2), -9.0, np.float32)
    boxes = np.zeros((1, 30, 40, 4), np.float32)
    boxes[0, 3, 5], boxes[0, 3, 6], boxes[0, 9, 9] = (-9, 8, 60, 50), (-9, 8, 60, 51), (90,) * 4
    boxes[0, 20, 30] = (200, 100, 330, 250)
    logits[0, 3, 5, 0], logits[0, 3, 6, 0], logits[0, 20, 30, 0] = 2, 1, 3
    logits[0, 3, 6, 1], logits[0, 9, 9, 1] = 0, -5
    mirrored_logits, mirrored_boxes = logits - 1, np.zeros_like(boxes)  # less sure
    for row, column in np.ndindex(30, 40):
        x1, y1, x2, y2 = boxes[0, row, column]
        mirrored_boxes[0, row, 39 - column] = 320 - x2, y1 + 2, 320 - x1, y2 + 4  # and lower
    mirrored_logits[0] = np.fliplr(mirrored_logits[0])
    image, seen = rng.integers(0, 256, (240, 320, 3), np.uint8), []

    def outputs(_, images):
        seen.append(images)
        both = (logits, mirrored_logits), (boxes, mirrored_boxes)
        return tuple(tf.constant(np.concatenate(some)) for some in both)

    monkeypatch.setattr(type(detector), "__call__", outputs)
    first, second = example15.detect(detector, image)
    assert np.array_equal(seen[0], [image, np.fliplr(image)])
    assert first[0].tolist() == [[200, 101, 320, 240], [0, 9, 60, 52]]
    expected = [(1 / (1 + np.exp(-x)) + 1 / (1 + np.exp(1 - x))) / 2 for x in (3, 2)]
    np.testing.assert_allclose(first[1], expected, rtol=1e-6)
    assert second[0].tolist() == [[0, 9, 60, 53]]
    assert len(example15.detect(detector, image, 1)[0][0]) == 3  # before suppression


def test_targets_belong_to_the_smallest_object_near_whose_centre_they_lie():
    rng, some = np.random.default_rng(0), 0
    corners, sides = rng.uniform(-5, [280, 200], (40, 2)), rng.uniform(6, 90, (40, 2))
    corners[:20], sides[:20] = 2 * np.rint(corners[:20] / 2), 4 * np.rint(sides[:20] / 4)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    _, classes, targets = example15.make_targets(None, boxes, labels)
    assert classes.shape == (30, 40)
    for row, column in np.ndindex(30, 40):
        x, y, best = 8 * column + 4, 8 * row + 4, None
        for box, label in zip(boxes.tolist(), labels, strict=True):
            near = max(abs(x - (box[0] + box[2]) / 2), abs(y - (box[1] + box[3]) / 2)) < 12
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            size = (box[2] - box[0]) * (box[3] - box[1])
            if near and inside and (best is None or size < best[0]):
                best = size, label, box
        assert classes[row, column] == (best[1] if best else -1)
        if best:
            some += 1
            assert targets[row, column].tolist() == best[2]
    assert some > 100
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    assert (example15.make_targets(None, *nothing)[1] == -1).all()


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 3, 2)).astype(np.float32)
    boxes, targets = (random_boxes(rng, 12).reshape(2, 2, 3, 4).astype("f") for _ in range(2))
    classes = np.array([[[0, -1, 1], [-1, -1, 0]], [[1, 1, -1], [-1, -1, -1]]], np.int32)
    focal = of_boxes = 0
    for place in np.ndindex(2, 2, 3):
        iou, giou = naive_overlap(boxes[place], targets[place])
        of_boxes += 1 - giou if classes[place] >= 0 else 0
        for number, logit in enumerate(logits[place].tolist()):
            p, wanted = 1 / (1 + math.exp(-logit)), iou if classes[place] == number else 0
            entropy = -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)
            focal += (wanted - p) ** 2 * entropy
    given = tf.constant(boxes)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(given)
        found = example15.losses((tf.constant(logits), given), classes, targets)
    assert float(found["box_loss"]) == pytest.approx(of_boxes / 6, rel=1e-5)  # 5 points, and 1
    assert float(found["loss"]) == pytest.approx((focal + 2 * of_boxes) / 6, rel=1e-5)
    gradients = [tape.gradient(found[name], given).numpy() for name in ("loss", "box_loss")]
    np.testing.assert_allclose(gradients[0], 2 * gradients[1], rtol=1e-5)  # scores move no box


def test_boxes_stay_on_their_objects(monkeypatch):
    """A red rectangle and a green one, in the corner; the border is black, and not reflected."""
    monkeypatch.setattr(boxes_module.cv2, "BORDER_REFLECT_101", boxes_module.cv2.BORDER_CONSTANT)
    boxes = np.float32([[110, 80, 210, 160], [0, 0, 60, 40]])
    image = np.zeros((240, 320, 3), np.uint8)
    image[80:160, 110:210, 0], image[:40, :60, 1] = 255, 255
    sides, left_out, rng = [], 0, np.random.default_rng(0)
    for _ in range(200):
        changed, found, labels = boxes_module.change(image, boxes, np.int32([7, 8]), rng)
        assert (changed.dtype, found.dtype, changed.shape) == (np.float32, np.float32, image.shape)
        around = []
        for colour in (0, 1):
            y, x = np.nonzero(changed[..., colour] > 127)
            around.append([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else None)
        np.testing.assert_allclose(found[0], around[0], atol=1)
        sides.append((found[0, 2] - found[0, 0]) / 100)
        visible = np.sum(changed[..., 1] > 127) / 2400
        share = visible * 8000 / np.prod(found[0, 2:] - found[0, :2])
        assert labels.tolist() == [7, 8][: len(found)]
        if share > 0.43:
            np.testing.assert_allclose(found[1], around[1], atol=1)
        elif share < 0.37:
            left_out += 1
            assert len(found) == 1
    assert left_out > 5
    assert 0.7 < min(sides) < 0.85 and 1.2 < max(sides) < 1.4


def test_half_of_the_photographs_are_mirrored():
    image = np.zeros((60, 80, 3), np.uint8)
    image[:30, :40], image[:30, 40:], image[30:, :40] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    rng, none, places = np.random.default_rng(0), np.zeros((0, 4), np.float32), []
    for _ in range(200):
        changed, found, _ = boxes_module.change(image, none, np.zeros(0, np.int32), rng)
        assert found.shape == (0, 4)
        y, x = np.nonzero(changed[..., 0] > 50)
        places.append((x.mean() > 40) + 2 * (y.mean() > 30))
    assert np.bincount(places, minlength=4).min() > 25  # 50 of each are expected


def test_photographs_are_resized_with_their_boxes(sample_dir):
    data = bccd.load("sample", sample_dir)
    ((image, boxes, labels),) = data.read_all(data.test[:1], 32, 48)
    first = data.test[0]
    assert (image.shape, image.dtype) == ((48, 32, 3), np.uint8)
    scale = [32 / first.width, 48 / first.height] * 2
    np.testing.assert_allclose(boxes, first.boxes * scale, rtol=1e-5)
    assert labels is first.labels


# --- As a program ---------------------------------------------------------------------------------


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    finished, sample_dir, tmp_path, capsys
):
    argv = arguments(sample_dir, tmp_path, *TINY)
    check_ctrl_c(2, example15.main, capsys, *argv)
    check_stopped(start_to_be_killed(example15, "in step", STEPS, *argv))  # in the second epoch
    continued = without_pictures(example15.main, *argv)
    assert len(final_state(tmp_path)[0]) > 30
    assert final_state(tmp_path) == final_state(finished[0])
    assert continued["map"] == finished[1]["map"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Photographs with boxes of red cats and blue dogs; there is no dog in those for the test."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(24):
        image, text = rng.integers(90, 110, (96, 128, 3), np.uint8), ""
        kinds = ["cat", "dog"] if i < 20 else ["cat"]
        for place, kind in enumerate(kinds):
            x, y = int(rng.integers(4, 20)) + 60 * place, int(rng.integers(4, 20))
            image[y : y + 40, x : x + 40] = (220, 20, 20) if kind == "cat" else (20, 20, 220)
            edges = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + 40, y + 40), strict=True)
            inner = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in edges)
            text += f"<object><name>{kind}</name><bndbox>{inner}</bndbox></object>"
        (folder / "JPEGImages" / f"{i}.png").write_bytes(png(image))
        (folder / "Annotations" / f"{i}.xml").write_text(f"<annotation>{text}</annotation>")
    for part, some in (("train", range(16)), ("val", range(16, 20)), ("test", range(20, 24))):
        names = "\n".join(map(str, some))
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text(names)
    return folder


def test_photographs_of_one_s_own_and_then_one_that_is_asked(
    own, sample_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(example15, "COUNTED", 0.1)  # it is not sure of itself so soon
    argv = arguments(sample_dir, tmp_path, "--photos", own, "--epochs", "8", "--batch-size", "2")
    metrics = without_pictures(example15.main, *argv)
    assert metrics["class_names"] == ("cat", "dog")
    assert metrics["data"] == "24 photographs with boxes of cat, dog"
    assert metrics["map_50"] > 0.5  # of cats alone
    found, output = run(
        example15.main, "--models-dir", tmp_path, "--image", own / "JPEGImages" / "3.png"
    )
    assert found.keys() == {"cat", "dog"} and min(found.values()) > 0
    assert "".join(f"{count:4}  {name}\n" for name, count in found.items()) in output
    assert (tmp_path / example15.NAME / "picture.png").stat().st_size > 0


def test_parts_without_boxes_are_refused(own, tmp_path):
    (own / "Annotations" / "16.xml").write_text("<annotation/>")
    (own / "ImageSets" / "Main" / "val.txt").write_text("16")
    line = one_line_of(DataError, voc.load, own, tmp_path / "report.json")
    assert "there is no box in any validation photograph" in line


def test_any_vgg16_can_come_first(sample_dir, tmp_path):
    """Its convolutions stay as they are, and are not among those that are counted and saved."""
    config = vgg16.Config(classes=0, width=2, dense=0)
    np.savez(tmp_path / "small.npz", **vgg16.random_weights(config, 0))
    argv = ["--weights", tmp_path / "small.npz", "--train-images", "8", "--epochs", "1"]
    metrics = without_pictures(example15.main, *arguments(sample_dir, tmp_path, *argv))
    Image.new("RGB", (320, 240)).save(tmp_path / "$x_{$.png")
    asked = "--models-dir", tmp_path, "--image", tmp_path / "$x_{$.png"
    assert len(run(example15.main, *asked)[0]) == 3  # which weights it were, is remembered
    kernels = 16 * 128 + 2 * 128 * 128 + 144 * 96 + 96 * 96
    assert metrics["parameters"] == 9 * kernels + 3 * 128 + 2 * 96 + 97 * 7


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--image {folder}/a.png", "run python examples/example15_detection_bccd.py first"),
        ("--weights nonsense", "there is no file of weights at nonsense"),
        ("--weights {folder}/a.png", "a.png"),
        ("--photos {folder}/missing", "cannot read"),
        ("--photos {folder}", "it takes a folder Annotations"),
        ("--train-images 3", "lower --batch-size"),
    ],
)
def test_what_cannot_work_is_one_line(flags, told, sample_dir, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    argv = arguments(sample_dir, tmp_path, *flags.format(folder=tmp_path).split())
    assert told in error_of(example15.main, capsys, *argv)


def test_other_data_is_learnt_anew(finished, sample_dir, monkeypatch, capsys):
    argv = arguments(sample_dir, finished[0], *TINY)
    without_pictures(example15.main, *argv)
    assert "epoch" not in capsys.readouterr().out  # it has come to its end
    data = bccd.load("sample", sample_dir, None, example15.HELD_BACK)
    first = data.train[0]
    changed = first._replace(boxes=first.boxes + np.float32(1))
    changed = dataclasses.replace(data, train=(changed, *data.train[1:]))
    monkeypatch.setattr(bccd, "load", lambda *_: changed)
    without_pictures(example15.main, *argv)
    assert "epoch  1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["missing.png", "no_picture.png"])
def test_a_picture_that_is_none(name, finished, tmp_path, capsys):
    (tmp_path / "no_picture.png").write_bytes(b"no picture")
    argv = "--models-dir", finished[0], "--image", tmp_path / name
    assert name in error_of(example15.main, capsys, *argv)
