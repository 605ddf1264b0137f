"""Draw the figures of note 9: the answers of six tasks, and how answers are scored.

    python docs/figures/tasks.py

writes docs/images/tasks_*.svg and the tables tasks_* of the notes. All images are sample data:
drawings, and scikit-learn's handwritten digits. Every score is computed here with NumPy alone, in a
few lines; the tests compare them with scikit-learn and TensorFlow.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import drawing  # isort: skip  # before TensorFlow
from drawing import BLUE, INK, ORANGE  # isort: skip

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from datasets import drawings, mnist

# %% Classification


def top_k_error(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of rows (N, C) whose label is not among the k largest scores."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean(~(best == labels[:, None]).any(axis=1)))


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count how often label i was taken for class j: (classes, classes)."""
    pairs = classes * labels.ravel() + predictions.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def precision_recall_f1(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float, float]:
    """Return three scores of answers yes (1) and no (0); what would be 0 / 0 is 0."""
    (_, false_positives), (false_negatives, hits) = confusion_matrix(labels, predictions, 2)
    precision = hits / max(hits + false_positives, 1)
    recall = hits / max(hits + false_negatives, 1)
    f1 = 2 * hits / max(2 * hits + false_positives + false_negatives, 1)
    return float(precision), float(recall), float(f1)


def counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many of the labels are 1, and how many 0, at or above each score.

    One entry for each score that occurs, from the highest to the lowest.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores: all or none
    return np.cumsum(labels[order])[last], np.cumsum(1 - labels[order])[last]


def roc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false positive rate and true positive rate (recall) at all thresholds, from (0, 0)."""
    hits, false = counts(labels, scores)
    return np.append(0, false / false[-1]), np.append(0, hits / hits[-1])


def area_under_roc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the curve of `roc`, by trapezia."""
    x, y = roc(labels, scores)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean of the precision, weighted by the recall that each threshold adds."""
    hits, false = counts(labels, scores)
    return float(np.sum(np.diff(hits / hits[-1], prepend=0) * hits / (hits + false)))


def unbalanced(positives: int, negatives: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and scores from two bell curves 2 standard deviations apart.

    The scores are the curves' quantiles, not drawn at random: the same curves, however many.
    """
    quantiles = [stats.norm.ppf((np.arange(n) + 0.5) / n) for n in (positives, negatives)]
    labels = np.repeat([1, 0], [positives, negatives])
    return labels, np.concatenate([quantiles[0] + 2, quantiles[1]])


def unbalanced_table() -> str:
    """Return a table of the scores of one classifier where "yes" is frequent, and where it is rare.

    Below it, for comparison, one that always says no.
    """
    rows = []
    for positives in (2000, 40):
        labels, scores = unbalanced(positives)
        share = f"{positives:,} of {len(labels):,}"
        for name, values, threshold in (("scores", scores, 1), ("always no", 0 * scores, 1)):
            answers = (values > threshold).astype(int)
            rows.append([share, name, f"{np.mean(answers == labels):.1%}"])
            rows[-1] += [f"{value:.2f}" for value in precision_recall_f1(labels, answers)]
            rows[-1] += [f"{area_under_roc(labels, values):.2f}"]
            rows[-1] += [f"{average_precision(labels, values):.2f}"]
    header = ["yes", "classifier", "accuracy", "precision", "recall", "F1", "AUC", "AP"]
    return drawing.table(header, "llrrrrrr", rows)


# %% Boxes and masks
# A box is (top, left, bottom, right), as in TensorFlow. (COCO's are (left, top, width, height).)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (N, 4) with boxes (M, 4): (N, M)."""
    a, b = first[:, None], second[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b)]
    return intersection / (areas[0] + areas[1] - intersection)


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union of two masks of booleans."""
    return float(np.sum(first & second) / np.sum(first | second))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return Dice's coefficient of two masks of booleans."""
    return float(2 * np.sum(first & second) / (np.sum(first) + np.sum(second)))


def mean_iou(matrix: np.ndarray) -> float:
    """Return the mean of the classes' IoU, from the confusion matrix of all pixels."""
    hits = np.diag(matrix)
    return float(np.mean(hits / (matrix.sum(axis=0) + matrix.sum(axis=1) - hits)))


def box_around(mask: np.ndarray) -> np.ndarray:
    """Return the smallest box that holds all that is True in a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], float)


def panoptic_quality(truth: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Return the panoptic quality of one class, from its segments: masks that do not overlap."""
    ious = np.array([[mask_iou(t, f) for f in found] for t in truth])
    matched = ious[ious > 0.5]  # each segment is in at most one such pair
    return float(matched.sum() / ((len(truth) + len(found)) / 2))


def non_maximum_suppression(
    boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.5
) -> list[int]:
    """Return which boxes (N, 4) of one class to keep, the best first."""
    left, kept = list(np.argsort(-scores, kind="stable")), []
    while left:
        best = left.pop(0)
        kept.append(int(best))
        left = [i for i in left if box_iou(boxes[[best]], boxes[[i]])[0, 0] <= threshold]
    return kept


# %% Average precision of detections


def matches(
    found: np.ndarray, scores: np.ndarray, truth: np.ndarray, threshold: float, voc: bool = False
) -> np.ndarray:
    """Tell which of the boxes found in one image, of one class, are right.

    Args:
        found: boxes (N, 4).
        scores: of these, (N,).
        truth: boxes (M, 4).
        threshold: of the IoU.
        voc: a box is compared with the object that it overlaps most, and is wrong if that has been
            found already. Otherwise, as with COCO, with those that have not been found.

    Returns:
        Booleans (N,): right, or a false alarm.
    """
    right, free = np.zeros(len(found), bool), np.ones(len(truth), bool)
    ious = box_iou(found, truth)
    for i in np.argsort(-scores, kind="stable"):
        candidates = ious[i] if voc else np.where(free, ious[i], -1)
        best = int(candidates.argmax())
        if candidates[best] >= threshold and free[best]:
            right[i], free[best] = True, False
    return right


def precision_recall(right: np.ndarray, scores: np.ndarray, objects: int):
    """Return precision and recall after each detection (N,), from the best to the worst."""
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    return hits / np.arange(1, len(hits) + 1), hits / objects


def envelope(precision: np.ndarray) -> np.ndarray:
    """Return for each detection the best precision that is reached there or at higher recall."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def at_recalls(precision: np.ndarray, recall: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the envelope at some values of the recall; 0 where the recall is never reached."""
    index = np.searchsorted(recall, wanted - 1e-12)
    return np.append(envelope(precision), 0)[index]


def ap_voc2007(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the mean of the envelope at recall 0, 0.1, ..., 1."""
    return float(np.mean(at_recalls(precision, recall, np.linspace(0, 1, 11))))


def ap_voc2010(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the envelope."""
    return float(np.sum(np.diff(recall, prepend=0) * envelope(precision)))


def ap_coco(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the mean of the envelope at recall 0, 0.01, ..., 1, for one threshold of the IoU."""
    return float(np.mean(at_recalls(precision, recall, np.linspace(0, 1, 101))))


IOU_THRESHOLDS = np.arange(10) / 20 + 0.5  # COCO's: 0.5, 0.55, ..., 0.95
SIDE = 20  # pixels: height and width of each object in the worked example
OBJECTS = (3, 2)  # how many there are in each of its two images
# What a detector says of them: score, image, object, and how far beside it, in pixels. Object 9 is
# none: the box is far from all.
DETECTIONS = (
    (0.95, 0, 0, 1),
    (0.90, 1, 0, 2),
    (0.85, 0, 9, 0),
    (0.80, 0, 1, 0),
    (0.70, 1, 0, 1),  # the second box for this object
    (0.60, 1, 1, 4),
    (0.50, 1, 9, 0),
    (0.40, 0, 2, 8),  # too far beside it
)


class Detections(NamedTuple):
    """The worked example: for each detection score and image, boxes found, and true boxes."""

    scores: np.ndarray
    images: np.ndarray
    found: np.ndarray
    truth: list[np.ndarray]


def worked_example() -> Detections:
    """Make the boxes of the worked example: objects side by side, 30 pixels from each other."""
    scores, images, objects, shifts = map(np.array, zip(*DETECTIONS, strict=True))

    def box(number, shift=0):
        return np.array([0, 30 * number + shift, SIDE, 30 * number + shift + SIDE], float)

    truth = [np.stack([box(number) for number in range(count)]) for count in OBJECTS]
    found = np.stack([box(*pair) for pair in zip(objects, shifts, strict=True)])
    return Detections(scores, images, found, truth)


def matched(example: Detections, threshold: float, voc: bool = False) -> np.ndarray:
    """Tell which detections of the worked example are right."""
    right = np.zeros(len(example.scores), bool)
    for image, truth in enumerate(example.truth):
        here = example.images == image
        right[here] = matches(example.found[here], example.scores[here], truth, threshold, voc)
    return right


def curve(example: Detections, threshold: float, voc: bool = False):
    """Return precision and recall of the worked example."""
    right = matched(example, threshold, voc)
    return precision_recall(right, example.scores, sum(map(len, example.truth)))


def ap_definitions(example: Detections) -> dict[str, float]:
    """Return the average precision of the worked example by every definition."""
    voc, coco = curve(example, 0.5, voc=True), curve(example, 0.5)
    return {
        "VOC 2007: IoU 0.5, 11 recalls": ap_voc2007(*voc),
        "VOC 2010: IoU 0.5, area": ap_voc2010(*voc),
        "COCO's AP50: IoU 0.5, 101 recalls": ap_coco(*coco),
        "COCO's AP75: IoU 0.75, 101 recalls": ap_coco(*curve(example, 0.75)),
        "**COCO's AP**: mean over IoU 0.5, 0.55, ..., 0.95": float(
            np.mean([ap_coco(*curve(example, threshold)) for threshold in IOU_THRESHOLDS])
        ),
    }


def detections_table(example: Detections) -> str:
    """Return the table of the worked example: each detection, and the curve that comes of it."""
    right = matched(example, 0.5)
    precision, recall = curve(example, 0.5)
    rows = []
    for i, (score, image) in enumerate(zip(example.scores, example.images, strict=True)):
        iou = box_iou(example.found[[i]], example.truth[image]).max()
        verdict = "right" if right[i] else "wrong"
        if not right[i] and iou >= 0.5:
            verdict = "wrong: found before"
        objects = sum(map(len, example.truth))
        rows.append([f"{score:.2f}", "AB"[image], f"{iou:.2f}", verdict])
        rows[-1] += [f"{right[: i + 1].sum()} / {i + 1} = {precision[i]:.2f}"]
        rows[-1] += [f"{right[: i + 1].sum()} / {objects} = {recall[i]:.2f}"]
    header = ["score", "image", "IoU", "at 0.5", "precision so far", "recall so far"]
    return drawing.table(header, "rlrlrr", rows)


def definitions_table(example: Detections) -> str:
    """Return the table of the average precision of the worked example by every definition."""
    rows = [[name, f"{value:.3f}"] for name, value in ap_definitions(example).items()]
    return drawing.table(["definition", "AP"], "lr", rows)


def draw_average_precision() -> None:
    """Draw the curve of the worked example and what the definitions make of it."""
    example = worked_example()
    precision, recall = curve(example, 0.5)
    axes = drawing.panels(3)
    steps = np.append(0, recall), np.append(envelope(precision)[0], envelope(precision))
    end = recall.max()
    axes[0].plot(recall, precision, "o--", color=INK, label="after each detection")
    axes[0].step(*steps, where="pre", color=BLUE, label="envelope")
    axes[0].plot([end, end, 1], [envelope(precision)[-1], 0, 0], color=BLUE)
    axes[0].fill_between(*steps, step="pre", alpha=0.2)
    axes[0].set(xlabel="recall", ylabel="precision", title="VOC 2010: the area", ylim=(-0.05, 1.1))
    axes[0].legend(loc="lower left")

    axes[1].step(*steps, where="pre", color=BLUE, label="envelope")
    axes[1].plot([end, end, 1], [envelope(precision)[-1], 0, 0], color=BLUE)
    wanted = np.linspace(0, 1, 11)
    values = at_recalls(precision, recall, wanted)
    axes[1].vlines(wanted, 0, values, color=ORANGE, lw=1)
    axes[1].plot(wanted, values, "s", color=ORANGE, ms=5)
    axes[1].set(
        xlabel="recall", ylabel="precision", title="VOC 2007: mean of 11 values", ylim=(-0.05, 1.1)
    )

    values = [ap_coco(*curve(example, threshold)) for threshold in IOU_THRESHOLDS]
    axes[2].bar(IOU_THRESHOLDS, values, width=0.04, color=BLUE, alpha=0.5)
    axes[2].axhline(np.mean(values), color=INK, ls="--", lw=1)
    axes[2].text(0.96, np.mean(values) + 0.02, f"mean {np.mean(values):.2f}", ha="right")
    axes[2].set(
        xlabel="IoU that is asked for",
        ylabel="AP (101 recalls)",
        title="COCO: mean over ten IoUs",
        ylim=(-0.05, 1.1),
    )
    drawing.save_panels(axes, "tasks_average_precision")


# %% A scene
# Drawings of datasets/drawings.py in front of a landscape: where each of them is, is known exactly.

HEIGHT, WIDTH, HORIZON = 96, 144, 62  # pixels
THINGS = (  # kind, side of its square, top, left, colours of body and details, seed of its pose
    ("house", 58, 30, 4, (196, 120, 92), (120, 52, 44), 3),
    ("tree", 66, 22, 77, (64, 120, 60), (104, 74, 48), 2),
    ("butterfly", 36, 6, 52, (232, 176, 48), (70, 40, 90), 5),
    ("butterfly", 34, 14, 74, (90, 110, 200), (240, 230, 120), 6),
)
COLOURS = {  # for masks and boxes; can be told apart by the colour-blind
    "sky": "#d9e6f2",
    "meadow": "#c9d8a8",
    "house": "#d55e00",
    "tree": "#009e73",
    "butterfly": "#0072b2",
    "butterfly 2": "#e69f00",
}


class Scene(NamedTuple):
    """An image, uint8 (H, W, 3), and what can be seen of each thing, bool (things, H, W)."""

    image: np.ndarray
    masks: np.ndarray
    kinds: list[str]


def make_scene() -> Scene:
    """Paint the things one after the other; the later ones hide the earlier."""
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    image = np.where(
        np.arange(HEIGHT)[:, None, None] < HORIZON,
        np.array([150, 190, 225]) + 40 * rows,
        np.array([120, 160, 80]) + 20 * rows,
    ) * np.ones((1, WIDTH, 1))
    masks = []
    for kind, side, top, left, body, detail, seed in THINGS:
        rng = np.random.default_rng(seed)
        # (side, side, 2): how much of each pixel body and details cover, of 255
        (coverage,) = drawings.draw_shapes([drawings.DRAWINGS[kind]], np.array([0]), side, rng)
        whole = np.zeros((HEIGHT, WIDTH, 2))
        whole[top : top + side, left : left + side] = coverage[: HEIGHT - top] / 255
        share = whole.sum(axis=-1)
        image *= 1 - share[..., None]
        image += whole[..., :1] * np.array(body) + whole[..., 1:] * np.array(detail)
        for mask in masks:
            mask &= share < 0.5
        masks.append(share >= 0.5)
    kinds = [thing[0] for thing in THINGS]
    return Scene(np.clip(image, 0, 255).astype(np.uint8), np.array(masks), kinds)


def semantic(scene: Scene) -> np.ndarray:
    """Return the class of each pixel: 0 sky, 1 meadow, 2 house, 3 tree, 4 butterfly."""
    classes = np.repeat((np.arange(HEIGHT) >= HORIZON).astype(int)[:, None], WIDTH, axis=1)
    for mask, kind in zip(scene.masks, scene.kinds, strict=True):
        classes[mask] = list(COLOURS).index(kind)
    return classes


def draw_box(axis, box: np.ndarray, colour: str, text: str = "", style: str = "-") -> None:
    """Draw a box, and a text above it."""
    top, left, bottom, right = box
    corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
    axis.add_patch(plt.Rectangle(corner, *size, fill=False, ec=colour, lw=1.8, ls=style))
    if text:
        label = {"fc": colour, "ec": "none", "pad": 1, "alpha": 0.9}
        axis.text(left, top - 2, text, size=8.5, color="white", va="bottom", bbox=label)


def paint(axis, masks, colours: list[str], opacity: float) -> None:
    """Lay masks (H, W) over an image, each in its colour."""
    for mask, colour in zip(masks, colours, strict=True):
        layer = np.zeros((*mask.shape, 4))
        layer[mask] = plt.matplotlib.colors.to_rgba(colour, opacity)
        axis.imshow(layer)


def draw_answers(scene: Scene) -> None:
    """Draw the answers of six tasks over the scene."""
    axes = drawing.panels(6, (3.65, 2.6))
    classes, names = semantic(scene), list(COLOURS)
    boxes = [box_around(mask) for mask in scene.masks]
    numbered = [*scene.kinds[:-1], f"{scene.kinds[-1]} 2"]
    for axis in axes:
        axis.imshow(scene.image)
        axis.axis("off")
    label = {"fc": "black", "ec": "none", "pad": 3}
    axes[0].text(4, 8, "house", size=10, color="white", va="center", bbox=label)
    draw_box(axes[1], boxes[0], COLOURS["house"], "house")
    for box, kind, score in zip(boxes, scene.kinds, (0.97, 0.93, 0.88, 0.71), strict=True):
        draw_box(axes[2], box, COLOURS[kind], f"{kind} {score:.2f}")
    paint(axes[3], [classes == i for i in range(5)], [COLOURS[n] for n in names[:5]], 0.85)
    paint(axes[4], scene.masks, [COLOURS[name] for name in numbered], 0.85)
    for box, name in zip(boxes, numbered, strict=True):
        draw_box(axes[4], box, COLOURS[name], style=":")
    background = [classes == 0, classes == 1]
    everything = [*background, *scene.masks]
    paint(axes[5], everything, [COLOURS[n] for n in ["sky", "meadow", *numbered]], 0.85)
    for axis in (axes[3], axes[5]):
        axis.text(6, 20, "sky", color="black")
        axis.text(60, 92, "meadow", color="black")
    centres = [np.argwhere(mask).mean(axis=0) for mask in scene.masks]
    both = np.mean(centres[-2:], axis=0)
    shown = [*zip([*centres[:-2], both], scene.kinds[:-1], strict=True)]
    numbers = [*zip(centres, [*scene.kinds[:-2], "1", "2"], strict=True)]
    for axis, texts in zip(axes[3:], (shown, numbers, numbers), strict=True):
        for (y, x), text in texts:
            axis.text(x, y, text, color="white", weight="bold", ha="center", va="center")
    titles = ("classification", "localisation", "detection")
    titles += ("semantic segmentation", "instance segmentation", "panoptic segmentation")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
    drawing.save_panels(axes, "tasks_answers")


# %% IoU


def draw_iou() -> None:
    """Draw what IoU measures, pairs of boxes, and its relation to Dice."""
    axes = drawing.panels(4, (1.78, 2.1))
    truth = np.array([0, 0, 10, 10], float)
    for axis, found in zip(axes, ([1, 1, 11, 11], [2, 3, 12, 13], [-3, -3, 13, 13]), strict=False):
        found = np.array(found, float)
        iou = box_iou(truth[None], found[None])[0, 0]
        for box, colour, style in ((truth, INK, "-"), (found, BLUE, "--")):
            axis.add_patch(
                plt.Rectangle(
                    (box[1], box[0]), *(box[2:] - box[:2])[::-1], fc="none", ec=colour, ls=style
                )
            )
        top, left = np.maximum(truth[:2], found[:2])
        bottom, right = np.minimum(truth[2:], found[2:])
        common_part = plt.Rectangle((left, top), right - left, bottom - top, fc=BLUE)
        common_part.set_alpha(0.35)
        axis.add_patch(common_part)
        axis.set(xlim=(-4, 14.5), ylim=(14.5, -4), aspect="equal")
        axis.set_title(f"IoU {iou:.2f}")
        axis.axis("off")
    values = np.linspace(0, 1, 101)
    axes[3].plot(values, 2 * values / (1 + values), label="Dice")
    axes[3].plot(values, values, ":", color=INK, label="IoU itself")
    axes[3].set(xlabel="IoU", aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes[3].legend()
    drawing.save_panels(axes, "tasks_iou")


def masks_table(scene: Scene) -> str:
    """Return a table of scores of a mask, the second butterfly's, that is moved to the right."""
    truth = scene.masks[-1]
    rows = []
    for shift in (0, 1, 2, 4, 8):
        found = np.roll(truth, shift, axis=1)
        boxes = [box_around(mask)[None] for mask in (truth, found)]
        values = [np.mean(truth == found), mask_iou(truth, found), dice(truth, found)]
        values.append(box_iou(*boxes)[0, 0])
        rows.append([f"{shift}", *(f"{value:.2f}" for value in values)])
    rows.append(["nothing found", f"{np.mean(~truth):.2f}", "0.00", "0.00", "0.00"])
    header = ["moved by, pixels", "right pixels", "IoU of masks", "Dice", "IoU of boxes"]
    return drawing.table(header, "rrrrr", rows)


# %% Non-maximum suppression


def candidates(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return what a detector might say of the two butterflies: boxes (N, 4), scores (N,)."""
    first, second = (box_around(mask) for mask in scene.masks[-2:])
    moves = [(0, 0, 0, 0), (-2, 3, 1, 2), (3, -3, 2, -2)]
    boxes = [box + np.array(move) for box in (first, second) for move in moves]
    return np.array(boxes), np.array([0.88, 0.74, 0.55, 0.71, 0.66, 0.42])


NMS_THRESHOLDS = (0.5, 0.05)


def draw_suppression(scene: Scene) -> None:
    """Draw candidate boxes, and what is left of them, also with a threshold that is too low."""
    boxes, scores = candidates(scene)
    axes = drawing.panels(3, (2.42, 2.1))
    kept = [range(len(boxes))] + [
        non_maximum_suppression(boxes, scores, threshold) for threshold in NMS_THRESHOLDS
    ]
    titles = [f"{len(boxes)} candidates"]
    titles += [f"IoU above {threshold:g} suppressed" for threshold in NMS_THRESHOLDS]
    for axis, chosen, title in zip(axes, kept, titles, strict=True):
        axis.imshow(scene.image)
        for i in chosen:
            colour = COLOURS["butterfly" if i < 3 else "butterfly 2"]
            text = f"{scores[i]:.2f}" if len(chosen) < len(boxes) else ""
            draw_box(axis, boxes[i], colour, text, "-" if i in (0, 3) else "--")
        axis.set(xlim=(38, 122), ylim=(58, -6))
        axis.set_title(title)
        axis.axis("off")
    drawing.save_panels(axes, "tasks_suppression")


# %% Retrieval


def neighbours(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the order of a gallery (M, D) by its distance from each query (N, D): (N, M)."""
    distances = (queries**2).sum(1)[:, None] - 2 * queries @ gallery.T + (gallery**2).sum(1)
    return np.argsort(distances, axis=1, kind="stable")


def recall_at_k(order: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray, k: int):
    """Return two scores that are both called recall@k.

    Returns:
        The share of queries that have at least one of their class among the first k; and the mean
        share of all of their class that are among the first k.
    """
    relevant = gallery_labels[order[:, :k]] == labels[:, None]
    of_class = (gallery_labels[None] == labels[:, None]).sum(axis=1)
    return float(relevant.any(axis=1).mean()), float((relevant.sum(axis=1) / of_class).mean())


def retrieval_table() -> str:
    """Return both kinds of recall@k for digits that are found by their pixels (sample data)."""
    with tempfile.TemporaryDirectory() as folder:
        data = mnist.load("sample", Path(folder))
    gallery, queries = (
        images.reshape(len(images), -1) / 255.0 for images in (data.train_images, data.test_images)
    )
    order = neighbours(queries, gallery)
    rows = []
    for k in (1, 5, 100):
        scores = recall_at_k(order, data.test_labels, data.train_labels, k)
        rows.append([f"{k}", *(f"{score:.3f}" for score in scores)])
    header = ["k", "any of the class is found", "share of the class that is found"]
    return drawing.table(header, "rrr", rows)


def main() -> None:
    """Draw all figures and write all tables."""
    scene, example = make_scene(), worked_example()
    draw_answers(scene)
    draw_iou()
    draw_suppression(scene)
    draw_average_precision()
    drawing.write(unbalanced_table(), "tasks_unbalanced")
    drawing.write(masks_table(scene), "tasks_masks")
    drawing.write(detections_table(example), "tasks_detections")
    drawing.write(definitions_table(example), "tasks_definitions")
    drawing.write(retrieval_table(), "tasks_retrieval")


if __name__ == "__main__":
    drawing.run(main)
