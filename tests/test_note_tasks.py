"""Checks note 9: its scores against scikit-learn, TensorFlow and numbers worked out by hand, and
its tables against what the script makes now.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from datasets import mnist  # noqa: E402

figures = programs.figures("tasks")


def generated(name):
    """Return a table without the line that says who made it."""
    text = (ROOT / "docs" / "notes" / "_generated" / f"{name}.md").read_text()
    return text.partition("-->")[2].strip()


def cells(table):
    """Return the cells of a Markdown table without its header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def scene():
    return figures.make_scene()


@pytest.fixture(scope="module")
def example():
    return figures.worked_example()


def random_boxes(rng, count):
    corners = rng.uniform(0, 80, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)


# --- Classification -------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_error(k):
    rng = np.random.default_rng(k)
    scores, labels = rng.normal(size=(300, 10)), rng.integers(10, size=300)
    expected = 1 - metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(10))
    assert figures.top_k_error(scores, labels, k) == pytest.approx(expected)


def test_confusion_matrix():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(5, size=(2, 400))
    found = figures.confusion_matrix(labels, predictions, 5)
    assert np.array_equal(found, metrics.confusion_matrix(labels, predictions))
    assert np.array_equal(found, tf.math.confusion_matrix(labels, predictions))


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_precision_recall_f1(share):
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < share).astype(int)
    for predictions in (rng.integers(2, size=500), 0 * labels):
        expected = metrics.precision_recall_fscore_support(
            labels, predictions, average="binary", zero_division=0
        )[:3]
        assert figures.precision_recall_f1(labels, predictions) == pytest.approx(expected)


def test_curves_and_areas_with_and_without_ties():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    for scores in (rng.normal(size=400) + labels, np.round(rng.normal(size=400) + labels)):
        x, y, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(figures.roc(labels, scores), (x, y))
        area = figures.area_under_roc(labels, scores)
        assert area == pytest.approx(metrics.roc_auc_score(labels, scores))
        expected = metrics.average_precision_score(labels, scores)
        assert figures.average_precision(labels, scores) == pytest.approx(expected)
        # The probability that a random "yes" scores higher than a random "no".
        differences = scores[labels == 1][:, None] - scores[labels == 0]
        assert area == pytest.approx(np.mean((np.sign(differences) + 1) / 2))


def test_rare_classes():
    table = figures.unbalanced_table()
    assert table == generated("tasks_unbalanced")
    frequent, never, rare, never_rare = (list(map(number, row[2:])) for row in cells(table))
    accuracy, precision, recall, f1, auc, ap = range(6)
    assert never_rare[accuracy] > rare[accuracy] + 10  # and is worthless
    assert never_rare[auc] == never[auc] == 0.5
    assert rare[auc] == frequent[auc]
    assert rare[accuracy] == pytest.approx(frequent[accuracy], abs=0.1)
    assert rare[recall] == round(34 / 40, 2) == pytest.approx(frequent[recall], abs=0.011)
    for score in (precision, f1, ap):
        assert rare[score] < frequent[score] / 2
    # What knows nothing has the share of "yes" as its AP.
    assert (never[ap], never_rare[ap]) == (0.5, round(40 / 2040, 2))


def number(cell):
    return float(cell.rstrip("%"))


# --- Boxes and masks ------------------------------------------------------------------------------


def test_iou_of_boxes_worked_out_by_hand():
    found = figures.box_iou(
        np.array([[0, 0, 10, 10]], float),
        np.array([[0, 0, 10, 10], [0, 5, 10, 15], [5, 5, 15, 15], [20, 0, 30, 10]], float),
    )
    np.testing.assert_allclose(found, [[1, 50 / 150, 25 / 175, 0]])


def test_iou_of_boxes_is_that_of_their_masks():
    rng = np.random.default_rng(0)
    boxes = np.rint(random_boxes(rng, 12)).astype(int)
    masks = np.zeros((12, 130, 130), bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
        assert np.array_equal(figures.box_around(mask), [top, left, bottom, right])
    expected = [[figures.mask_iou(a, b) for b in masks] for a in masks]
    np.testing.assert_allclose(figures.box_iou(boxes, boxes), expected)


def test_dice_and_iou_against_scikit_learn():
    rng = np.random.default_rng(0)
    for share in (0.2, 0.7):
        a, b = rng.random((2, 20, 30)) < share
        iou, dice = figures.mask_iou(a, b), figures.dice(a, b)
        assert iou == pytest.approx(metrics.jaccard_score(a.ravel(), b.ravel()))
        assert dice == pytest.approx(metrics.f1_score(a.ravel(), b.ravel()))
        assert dice == pytest.approx(2 * iou / (1 + iou))
        assert dice > iou
    assert round(0.8 / (2 - 0.8), 2) == 0.67  # the IoU that belongs to a Dice of 0.8


def test_means_of_dice_and_iou_may_disagree():
    even, uneven = np.array([0.5, 0.5]), np.array([0.05, 1.0])
    as_dice = lambda iou: 2 * iou / (1 + iou)  # noqa: E731
    assert uneven.mean() > even.mean()
    assert as_dice(uneven).mean() < as_dice(even).mean()


def test_mean_iou_counts_the_pixels_of_all_images():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(4, size=(2, 6, 8, 9))
    matrix = figures.confusion_matrix(labels, predictions, 4)
    keras = tf.keras.metrics.MeanIoU(num_classes=4)
    keras.update_state(labels, predictions)
    expected = metrics.jaccard_score(labels.ravel(), predictions.ravel(), average="macro")
    assert figures.mean_iou(matrix) == pytest.approx(expected)
    assert figures.mean_iou(matrix) == pytest.approx(float(keras.result()), abs=1e-6)
    of_images = [
        figures.mean_iou(figures.confusion_matrix(a, b, 4))
        for a, b in zip(labels, predictions, strict=True)
    ]
    assert np.mean(of_images) != pytest.approx(expected, rel=1e-3)


def test_panoptic_quality():
    segments = np.zeros((3, 10), bool)
    segments[0, :4], segments[1, 4:7], segments[2, 7:] = True, True, True
    assert figures.panoptic_quality([*segments], [*segments]) == 1
    found = np.zeros((2, 10), bool)
    found[0, :3], found[1, 6:8] = True, True  # IoU 3/4 with the first, 1/4 with two others
    # one pair, one false segment, two missed ones
    expected = 0.75 / (1 + 1 / 2 + 2 / 2)
    assert figures.panoptic_quality([*segments], [*found]) == pytest.approx(expected)


def test_a_moved_mask(scene):
    table = figures.masks_table(scene)
    assert table == generated("tasks_masks")
    rows = [list(map(float, row[1:])) for row in cells(table)]
    right, iou, dice, _ = np.array(rows).T
    assert right[-1] > 0.95  # though nothing is found
    assert iou[-1] == dice[-1] == 0
    assert (np.diff(iou) < 0).all() and (dice >= iou).all()


def test_the_scene_is_what_its_caption_says(scene):
    assert scene.kinds.count("butterfly") == 2
    assert all(mask.sum() > 200 for mask in scene.masks)
    assert not (scene.masks.sum(axis=0) > 1).any()
    classes = figures.semantic(scene)
    butterflies = np.logical_or(*scene.masks[-2:])
    assert np.array_equal(classes == list(figures.COLOURS).index("butterfly"), butterflies)


# --- Non-maximum suppression ----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
def test_suppression_against_tensorflow(threshold):
    rng = np.random.default_rng(0)
    for _ in range(5):
        boxes, scores = random_boxes(rng, 60), rng.random(60)
        expected = tf.image.non_max_suppression(boxes, scores, 60, threshold)
        assert figures.non_maximum_suppression(boxes, scores, threshold) == list(expected.numpy())


def test_suppression_of_the_drawn_boxes(scene):
    boxes, scores = figures.candidates(scene)
    kept = [figures.non_maximum_suppression(boxes, scores, t) for t in figures.NMS_THRESHOLDS]
    assert kept == [[0, 3], [0]]
    for threshold, expected in zip(figures.NMS_THRESHOLDS, kept, strict=True):
        found = tf.image.non_max_suppression(boxes, scores, len(boxes), threshold)
        assert found.numpy().tolist() == expected


# --- Average precision ----------------------------------------------------------------------------


def test_the_worked_example_by_hand(example):
    """Right, right, wrong, right, wrong, right, wrong, wrong; five objects."""
    right = figures.matched(example, 0.5)
    assert right.astype(int).tolist() == [1, 1, 0, 1, 0, 1, 0, 0]
    assert np.array_equal(right, figures.matched(example, 0.5, voc=True))
    found = figures.ap_definitions(example)
    voc2007, voc2010, ap50, ap75, ap = found.values()
    # The envelope is 1 up to recall 0.4, 3/4 up to 0.6, 2/3 up to 0.8, then 0.
    assert voc2010 == pytest.approx(0.4 + 0.2 * 3 / 4 + 0.2 * 2 / 3)
    assert voc2007 == pytest.approx((5 + 2 * 3 / 4 + 2 * 2 / 3) / 11)
    assert ap50 == pytest.approx((41 + 20 * 3 / 4 + 20 * 2 / 3) / 101)
    assert ap < ap75 < ap50
    assert figures.definitions_table(example) == generated("tasks_definitions")
    assert figures.detections_table(example) == generated("tasks_detections")


def test_the_area_is_scikit_learns_where_the_envelope_is_the_curve():
    """Without the envelope, and with objects that no box was drawn for, it is another one."""
    labels, scores = np.array([1, 1, 1, 0, 1, 0, 0]), np.arange(7, 0, -1)
    curve = figures.precision_recall(labels.astype(bool), scores, 4)
    expected = metrics.average_precision_score(labels, scores)
    assert figures.ap_voc2010(*curve) == pytest.approx(expected)
    missed = figures.precision_recall(labels.astype(bool), scores, 5)
    assert figures.ap_voc2010(*missed) == pytest.approx(0.8 * expected)
    labels = np.array([1, 0, 1, 1, 0, 1, 0])
    curve = figures.precision_recall(labels.astype(bool), scores, 4)
    assert figures.ap_voc2010(*curve) > metrics.average_precision_score(labels, scores)


def test_voc_and_coco_match_differently():
    """The second box fits best to the object that was found before, and well to another one."""
    truth = np.array([[0, 0, 10, 10], [0, 3, 10, 13]], float)
    found = np.array([[0, 0, 10, 10], [0, 1, 10, 11]], float)
    scores = np.array([0.9, 0.8])
    assert figures.matches(found, scores, truth, 0.5, voc=True).tolist() == [True, False]
    assert figures.matches(found, scores, truth, 0.5).tolist() == [True, True]


def test_ap_depends_on_the_order_alone(example):
    squared = example._replace(scores=example.scores**2)
    assert figures.ap_definitions(squared) == figures.ap_definitions(example)
    reverse = example._replace(scores=example.scores[::-1])
    assert figures.ap_definitions(reverse) != figures.ap_definitions(example)


def test_interpolated_precision_at_a_recall():
    precision, recall = np.array([1, 0.5, 2 / 3]), np.array([0.5, 0.5, 1])
    found = figures.at_recalls(precision, recall, np.array([0, 0.5, 0.51, 1]))
    np.testing.assert_allclose(found, [1, 1, 2 / 3, 2 / 3])
    assert figures.at_recalls(precision, recall / 2, np.array([0.9])) == [0]


# --- Retrieval ------------------------------------------------------------------------------------


def test_recall_at_k_by_hand():
    order = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    gallery, labels = np.array([0, 1, 1, 1]), np.array([1, 0])
    assert figures.recall_at_k(order, labels, gallery, 1) == (0, 0)
    assert figures.recall_at_k(order, labels, gallery, 2) == pytest.approx((1 / 2, 1 / 6))
    assert figures.recall_at_k(order, labels, gallery, 4) == (1, 1)


def test_retrieval_of_digits(tmp_path):
    data = mnist.load("sample", tmp_path)
    assert (len(data.test_images), len(data.train_images)) == (254, 1287)  # as the page says
    table = figures.retrieval_table()
    assert table == generated("tasks_retrieval")
    any_found, share = np.array([row[1:] for row in cells(table)], float).T
    assert (any_found > share).all()


def test_neighbours_are_scikit_learns():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(50, 7)), rng.normal(size=(9, 7))
    expected = NearestNeighbors(n_neighbors=50).fit(gallery).kneighbors(queries)[1]
    assert np.array_equal(figures.neighbours(queries, gallery), expected)
