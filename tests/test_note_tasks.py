"""Note 9: scores against scikit-learn, TensorFlow and numbers worked out by hand; its tables."""

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf
from sklearn import metrics
from sklearn.neighbors import NearestNeighbors

from examples import example16_segmentation_nuclei
from models.boxes import overlap

figures = programs.figures("tasks")
KINDS = ("cross-entropy", "dice")


@pytest.fixture(scope="module")
def scene():
    return figures.make_scene()


@pytest.fixture(scope="module")
def example():
    return figures.worked_example()


def random_boxes(rng, count):
    corners = rng.uniform(0, 80, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)


def random_classes(*shape):
    return np.random.default_rng(0).integers(4, size=(2, *shape))


def test_top_k_error_and_confusion_matrix():
    labels, predictions = random_classes(300)
    scores = np.random.default_rng(1).normal(size=(300, 4))
    for k in (1, 2, 3):
        expected = 1 - metrics.top_k_accuracy_score(labels, scores, k=k)
        assert figures.top_k_error(scores, labels, k) == pytest.approx(expected)
    found = figures.confusion_matrix(labels, predictions, 4)
    assert np.array_equal(found, metrics.confusion_matrix(labels, predictions))


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


def test_what_the_page_says_about_rare_classes():
    table = notes.rows(notes.generated("tasks_unbalanced"))
    scores = [[float(cell.rstrip("%")) for cell in row[2:]] for row in table]
    frequent, never, rare, never_rare = scores
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


def test_iou_of_boxes_by_hand_and_as_that_of_their_masks():
    found = figures.box_iou(
        np.array([[0, 0, 10, 10]], float),
        np.array([[0, 0, 10, 10], [0, 5, 10, 15], [5, 5, 15, 15], [20, 0, 30, 10]], float),
    )
    np.testing.assert_allclose(found, [[1, 50 / 150, 25 / 175, 0]])
    boxes = np.rint(random_boxes(np.random.default_rng(0), 12)).astype(int)
    masks = np.zeros((12, 130, 130), bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
        assert np.array_equal(figures.box_around(mask), [top, left, bottom, right])
    expected = [[figures.mask_iou(a, b) for b in masks] for a in masks]
    np.testing.assert_allclose(figures.box_iou(boxes, boxes), expected)


def test_the_exercises_on_losses():
    boxes = np.array([[0, 5, 10, 15], [0, 20, 10, 30]], np.float64)
    iou, generalised = overlap(np.array([[0, 0, 10, 10]], np.float64), boxes)
    np.testing.assert_allclose([iou, generalised], [[1 / 3, 0], [1 / 3, -1 / 3]])
    classes = np.array([[[1] + 19 * [0]]])  # one pixel of 20 belongs to a nucleus
    nothing, better = np.array([0.05]), np.where(classes == 1, 0.9, 0.1)[..., None]
    for share, entropy, dice in ((nothing, 0.199, 0.05), (better, 0.105, 0.47)):
        share = np.broadcast_to(share, (1, 1, 20, 1)) * np.ones((1000, 1, 1, 1))
        shares = np.concatenate([1 - share, share, 1e-9 + 0 * share], axis=-1)
        logits = np.log(shares).astype(np.float32)
        labels = np.repeat(classes, 1000, axis=0)
        found = [example16_segmentation_nuclei.losses(logits, labels, kind) for kind in KINDS]
        assert float(found[0]["loss"]) == pytest.approx(entropy, abs=5e-4)
        mean = 1 - float(found[1]["loss"])  # of core and rim; there is no rim, Dice 0
        assert 2 * mean == pytest.approx(dice, abs=5e-3)


def test_dice_and_iou_against_scikit_learn():
    rng = np.random.default_rng(0)
    for share in (0.2, 0.7):
        a, b = rng.random((2, 20, 30)) < share
        iou, dice = figures.mask_iou(a, b), figures.dice(a, b)
        assert iou == pytest.approx(metrics.jaccard_score(a.ravel(), b.ravel()))
        assert dice == pytest.approx(metrics.f1_score(a.ravel(), b.ravel()))
        assert iou < dice == pytest.approx(2 * iou / (1 + iou))


def test_mean_iou_counts_the_pixels_of_all_images():
    labels, predictions = random_classes(6, 8, 9)
    found = figures.mean_iou(figures.confusion_matrix(labels, predictions, 4))
    keras = tf.keras.metrics.MeanIoU(num_classes=4)
    keras.update_state(labels, predictions)
    assert found == pytest.approx(float(keras.result()), abs=1e-6)
    pairs = zip(labels, predictions, strict=True)
    each = [figures.mean_iou(figures.confusion_matrix(a, b, 4)) for a, b in pairs]
    assert np.mean(each) != pytest.approx(found, rel=1e-3)


def test_panoptic_quality():
    segments = np.zeros((3, 10), bool)
    segments[0, :4], segments[1, 4:7], segments[2, 7:] = True, True, True
    assert figures.panoptic_quality([*segments], [*segments]) == 1
    found = np.zeros((2, 10), bool)
    found[0, :3], found[1, 6:8] = True, True  # IoU 3/4 with the first, 1/4 with two others
    # one pair, one false segment, two missed ones
    expected = 0.75 / (1 + 1 / 2 + 2 / 2)
    assert figures.panoptic_quality([*segments], [*found]) == pytest.approx(expected)


def test_the_scene_is_what_its_caption_says(scene):
    assert scene.kinds.count("butterfly") == 2
    assert all(mask.sum() > 200 for mask in scene.masks)
    assert not (scene.masks.sum(axis=0) > 1).any()
    classes = figures.semantic(scene)
    butterflies = np.logical_or(*scene.masks[-2:])
    assert np.array_equal(classes == list(figures.COLOURS).index("butterfly"), butterflies)


def test_suppression_against_tensorflow(scene):
    rng, kept = np.random.default_rng(0), []
    trials = [(random_boxes(rng, 60), rng.random(60), t) for t in (0.1, 0.3, 0.5, 0.8)]
    trials += [(*figures.candidates(scene), t) for t in figures.NMS_THRESHOLDS]
    for boxes, scores, threshold in trials:
        expected = tf.image.non_max_suppression(boxes, scores, len(boxes), threshold)
        kept.append(figures.non_maximum_suppression(boxes, scores, threshold))
        assert kept[-1] == list(expected.numpy())
    assert kept[-2:] == [[0, 3], [0]]  # as in the picture


def test_the_worked_example_by_hand(example):
    """Right, right, wrong, right, wrong, right, wrong, wrong; five objects."""
    right = figures.matched(example, 0.5)
    assert right.astype(int).tolist() == [1, 1, 0, 1, 0, 1, 0, 0]
    assert np.array_equal(right, figures.matched(example, 0.5, voc=True))
    voc2007, voc2010, ap50, ap75, ap = figures.ap_definitions(example).values()
    # The envelope is 1 up to recall 0.4, 3/4 up to 0.6, 2/3 up to 0.8, then 0.
    assert voc2010 == pytest.approx(0.4 + 0.2 * 3 / 4 + 0.2 * 2 / 3)
    assert voc2007 == pytest.approx((5 + 2 * 3 / 4 + 2 * 2 / 3) / 11)
    assert ap50 == pytest.approx((41 + 20 * 3 / 4 + 20 * 2 / 3) / 101)
    assert ap < ap75 < ap50


def test_the_area_is_scikit_learns_where_the_envelope_is_the_curve():
    """Without the envelope, and with objects that no box was drawn for, it is another one."""
    labels, scores = np.array([1, 1, 1, 0, 1, 0, 0]), np.arange(7, 0, -1)
    expected = metrics.average_precision_score(labels, scores)
    for objects, share in ((4, 1), (5, 0.8)):
        curve = figures.precision_recall(labels.astype(bool), scores, objects)
        assert figures.ap_voc2010(*curve) == pytest.approx(share * expected)
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


def test_recall_at_k_by_hand():
    order = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    gallery, labels = np.array([0, 1, 1, 1]), np.array([1, 0])
    for k, expected in ((1, (0, 0)), (2, (1 / 2, 1 / 6)), (4, (1, 1))):
        assert figures.recall_at_k(order, labels, gallery, k) == pytest.approx(expected)
    any_found, share = np.array(list(notes.numbers("tasks_retrieval").values())).T
    assert (any_found > share).all()


def test_neighbours_are_scikit_learns():
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(50, 7)), rng.normal(size=(9, 7))
    expected = NearestNeighbors(n_neighbors=50).fit(gallery).kneighbors(queries)[1]
    assert np.array_equal(figures.neighbours(queries, gallery), expected)
