"""Example 15: detection, where the blood cells are, what they are, and how many.

You will learn how a network finds any number of objects: every point of a grid says
what it sees and draws a box around it. Then duplicates are suppressed, and what is left
is scored by average precision, up to COCO's mean, and by how well it counts.

    python examples/example15_detection_bccd.py                # downloads 8 MB once
    python examples/example15_detection_bccd.py --data sample  # offline, on drawings
    python examples/example15_detection_bccd.py --photos PATH  # yours, in VOC's layout
    python examples/example15_detection_bccd.py --image PATH   # count what is in it

Points near an object's centre draw its box, as in Z. Tian et al. (2019,
https://arxiv.org/abs/1904.01355); scores predict how well the box fits, as in X. Li et
al. (2020, https://arxiv.org/abs/2006.04388). Before this one: example 14, a record.
After it: example 16, segmentation. docs/results.md has the measured results.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import cv2
import numpy as np
import tensorflow as tf

from datasets import bccd, pictures, pretrained
from datasets.files import checksum
from examples.helpers.run import Run
from models import saved, vgg16_files
from models.boxes import area, change, draw_found, overlap
from models.convolution import TwoScales
from models.training import adam_steps, count_parameters, one_cycle

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 36, 4
HELD_BACK = 20  # photographs for validation; all 87 while these numbers were chosen
LEARNING_RATE, WARM_UP = 2e-3, 0.1  # Adam's, at the peak; share of steps until then
WIDTH, HEIGHT, STRIDE = 320, 240, 8  # pixels: of the images, and between grid points
REACH, BOX_WEIGHT = 12, 2  # pixels within which points see an object; of its box's loss
SUPPRESS = 0.55  # IoU above which the less certain of two boxes is a duplicate
LEAST, MOST, COUNTED = 0.02, 100, 0.4  # lowest score; boxes of a class; score to count
THRESHOLDS = np.arange(50, 100, 5) / 100  # of the IoU from which a box is a hit

# %% Data and targets
# Photographs of blood, with a box around each cell (datasets/bccd.py), are mirrored,
# resized, moved and recoloured for training (models/boxes.py). Over them lies a grid of
# 40 x 30 points. Those near an object's centre are to name its class and draw its box,
# all others to name nothing. The smallest at a point counts; between points, none.

GRID = np.meshgrid(np.arange(0.5, WIDTH / STRIDE), np.arange(0.5, HEIGHT / STRIDE))
GRID = STRIDE * np.stack(GRID, axis=-1).astype(np.float32)  # (30, 40, 2): x and y


def make_targets(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> tuple:
    """Return the image, and for each point a class, -1 for none, and a box."""
    classes = np.full(GRID.shape[:2], -1, np.int32)
    targets = np.zeros((*classes.shape, 4), np.float32)
    for i in np.argsort(-area(boxes)):  # the smallest last
        low, high = boxes[i, :2], boxes[i, 2:]
        near = (low < GRID) & (high > GRID) & (np.abs(GRID - (low + high) / 2) < REACH)
        where = near.all(axis=-1)
        classes[where], targets[where] = labels[i], boxes[i]
    return image, classes, targets


# %% Model
# A *one-stage* detector. Convolutions at two scales (models/convolution.py) bring the
# image down to the grid; with `--weights blocks`, they begin behind VGG16's block 4. To
# each point, the last layer gives logits, and the logarithms of its box's distances.


class Detector(tf.Module):
    """The variables, and the way from images to logits and boxes."""

    def __init__(self, classes: int, base, dtype: tf.DType, seed: int):
        super().__init__()
        self.classes, self.features = classes, TwoScales(base, dtype, seed)
        kernel = tf.random.stateless_normal((1, 1, 96, classes + 4), [seed, 1], 0, 0.01)
        self.kernel = tf.Variable(kernel)
        self.bias = tf.Variable([-3.0] * classes + [0.0] * 4)  # most points see nothing

    @tf.function(reduce_retracing=True)
    def __call__(self, images: tf.Tensor, training: bool = False) -> tuple:
        """Return logits (N, 30, 40, classes) and boxes (N, 30, 40, 4) for images."""
        x = self.features(images, training)  # (N, 30, 40, 96)
        x = tf.nn.conv2d(x, tf.cast(self.kernel, x.dtype), strides=1, padding="SAME")
        x = tf.cast(x, tf.float32) + self.bias
        edges = 3 * STRIDE * tf.exp(tf.clip_by_value(x[..., self.classes :], -4, 4))
        boxes = tf.concat([GRID - edges[..., :2], GRID + edges[..., 2:]], axis=-1)
        return x[..., : self.classes], boxes


# %% Loss
# The loss of a box is 1 less its IoU (note 9), generalised to have a gradient where
# boxes do not touch, too (models/boxes.py). For the classes, the *focal loss* (T.-Y.
# Lin et al. 2017, https://arxiv.org/abs/1708.02002) weights each cross-entropy by the
# square of the error, or the many points that see nothing would outweigh all others.
# What is wanted is not 1 but the box's IoU: then the score says how good a box is.


def losses(outputs: tuple, classes, targets) -> dict[str, tf.Tensor]:
    """Return the losses, averaged over the points that see an object."""
    (logits, boxes), seen = outputs, classes >= 0
    count = tf.reduce_sum(tf.cast(seen, tf.float32)) + 1
    targets = tf.where(seen[..., None], targets, boxes)  # where nothing is, no error
    iou, giou = overlap(boxes, targets)
    fit = tf.stop_gradient(iou)[..., None]
    wanted = fit * tf.one_hot(classes, logits.shape[-1])  # zeros for class -1
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)
    focal = tf.reduce_sum((wanted - tf.sigmoid(logits)) ** 2 * entropy) / count
    of_boxes = tf.reduce_sum(1 - giou[seen]) / count
    return {"loss": focal + BOX_WEIGHT * of_boxes, "box_loss": of_boxes}


# %% Suppression
# Several points see one object. *Non-maximum suppression* keeps the surest box of a
# class, removes what overlaps it too much, and goes on. Scores and boxes are means over
# the image and its mirror image, in which left and right edges change places.


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Return which of the boxes (N, 4) are kept, the surest first."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left) and len(kept) < MOST:
        kept.append(left[0])
        overlaps, _ = overlap(boxes[left[0]], boxes[left[1:]])
        left = left[1:][overlaps <= threshold]
    return kept


def detect(detector: Detector, image: np.ndarray, threshold: float = SUPPRESS) -> list:
    """Return for each class boxes, float64 (n, 4), and scores (n,), surest first."""
    views = np.stack([image, image[:, ::-1]]).astype(np.float32)  # itself, mirrored
    logits, boxes = (x.numpy() for x in detector(views))
    logits[1], boxes[1] = logits[1, :, ::-1], boxes[1, :, ::-1]
    boxes[1] = [WIDTH, 0, WIDTH, 0] + boxes[1][..., [2, 1, 0, 3]] * [-1, 1, -1, 1]
    scores = tf.sigmoid(logits).numpy().mean(axis=0).reshape(-1, detector.classes)
    boxes = np.clip(boxes.mean(axis=0), 0, [WIDTH, HEIGHT] * 2).reshape(-1, 4)
    found = []
    for column in scores.T:
        some = np.flatnonzero(column > LEAST)
        kept = some[suppress(boxes[some], column[some], threshold)]
        found.append((boxes[kept], column[kept]))
    return found


# %% Average precision
# A box is a hit if its IoU with an object that no surer box has found is not below a
# threshold. Down the list of scores, *recall*, the share of objects found, rises;
# *precision*, that of hits, mostly falls. *Average precision* (AP) is the mean, over
# recalls 0, 0.01, ... 1, of the highest precision there or beyond; mAP its mean over
# classes and, for COCO, ten thresholds (https://cocodataset.org/#detection-eval).


def match(boxes: np.ndarray, truth: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which of the boxes, the surest first, are hits."""
    hits = np.zeros(len(boxes), bool)
    overlaps, _ = overlap(boxes[:, None], truth.astype(np.float64))
    for i, row in enumerate(overlaps if len(truth) else ()):
        if row.max() >= threshold:
            hits[i], overlaps[:, row.argmax()] = True, -1
    return hits


def precision_at_recalls(scores, hits: np.ndarray, objects: int) -> np.ndarray:
    """Return the precision at 101 recalls, whose mean is AP; NaN without objects."""
    found = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = found / np.arange(1, len(found) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(found / max(objects, 1), np.linspace(0, 1, 101))
    return np.append(highest, 0)[index] if objects else np.full(101, np.nan)


def evaluate(found: list, photographs: list) -> np.ndarray:
    """Return precision (classes, THRESHOLDS, 101) of what was found in photographs."""
    curves = []
    for number, of_class in enumerate(zip(*found, strict=True)):
        truth = [boxes[labels == number] for _, boxes, labels in photographs]
        scores = np.concatenate([scores for _, scores in of_class])
        for threshold in THRESHOLDS:
            pairs = zip(of_class, truth, strict=True)
            hits = [match(boxes, true, threshold) for (boxes, _), true in pairs]
            objects = sum(map(len, truth))
            curves.append(precision_at_recalls(scores, np.concatenate(hits), objects))
    return np.reshape(curves, (-1, len(THRESHOLDS), 101))


# %% Counting and pictures
# The number of cells is that of the boxes from some score on.


def count_error(found: list, photographs: list) -> float:
    """Return the mean absolute error of the counts of each class in a photograph."""
    counts = [[np.sum(scores > COUNTED) for _, scores in each] for each in found]
    truth = [np.bincount(labels, minlength=len(found[0])) for *_, labels in photographs]
    return float(np.abs(np.array(counts) - truth).mean())


def plot_answers(detector: Detector, photographs: list, folder: Path) -> Path:
    """Draw what is found in photographs, the first one also without suppression."""
    image, captions = photographs[0][0], ["before suppression", "after"]
    pages = [draw_found(image, detect(detector, image, 1), COUNTED)]
    for x, truth, _ in photographs[:5]:
        pages.append(draw_found(x, detect(detector, x), COUNTED, truth))
    page, title = folder / "answers.png", "True boxes in white; white alone: missed"
    return report.plot_images(pages, page, title, captions, 2, 1.82)


def plot_curves(curves: np.ndarray, names, folder: Path) -> Path:
    """Draw precision over recall of each class, at an IoU of 0.5."""
    figure, axis = report.plt.subplots(figsize=(3.65, 3))
    axis.legend(axis.plot(np.linspace(0, 1, 101), curves[:, 0].T), names)
    axis.set(xlabel="recall", ylabel="precision", title="Example 15, IoU of 0.5")
    return report.save_figure(figure, folder / "precision.png")


def answer(path: Path, names: list[str], base, folder: Path, dtype) -> dict:
    """Count what a picture shows, and draw it."""
    detector = Detector(len(names), base, dtype, seed=0)
    saved.read_weights(detector, folder, __file__)
    image = pictures.read_picture(path)
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    found = detect(detector, image)
    counts = {n: int(sum(s > COUNTED)) for n, (_, s) in zip(names, found, strict=True)}
    print(*(f"{count:4}  {name}" for name, count in counts.items()), sep="\n")
    with cli.writing(page := folder / "picture.png"):
        report.plt.imsave(page, draw_found(image, found, COUNTED))
    print("wrote", cli.shown(page))
    return counts


# %% Training
# Note 4 explains Adam (models/training.py). Validation detects, suppresses, scores.


def train(run: Run, detector: Detector, train_step, known, held_back, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    for epoch in run:
        order = np.random.default_rng([args.seed, epoch]).permutation(len(known))
        for step in run.steps():
            rng = np.random.default_rng([args.seed, epoch, step])
            batch = order[step * args.batch_size :][: args.batch_size]
            changed = [make_targets(*change(*known[i], rng)) for i in batch]
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            run.record(train_step(rate, *map(np.stack, zip(*changed, strict=True))))
        curves = evaluate([detect(detector, x) for x, *_ in held_back], held_back)
        run.validate({"validation_map_50": np.nanmean(curves[:, 0])})


# %% Main program


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or count what a picture shows."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--weights", default="scratch", help="scratch, or VGG16's: blocks, or a path")
    add("--photos", type=Path, metavar="PATH", help="your own, in VOC's layout")
    add("--image", type=Path, metavar="PATH", help="a picture to count in")
    args = parser.parse_args(argv)
    dtype, folder, base = device.start(args.precision), args.models_dir / NAME, None
    if args.image:
        names, args.weights = saved.read_metrics(folder, "class_names", "weights")
    if args.weights != "scratch":
        path = pretrained.find_vgg16(args.weights, "full", args.data_dir)
        base = vgg16_files.load(path, dtype)[0].block4
    if args.image:
        return answer(args.image, names, base, folder, dtype)
    data = bccd.load(args.data, args.data_dir, args.photos, HELD_BACK)
    print(data.summary(args.train_images))
    parts = data.train[: args.train_images], data.validation, data.test
    known, held_back, tested = (data.read_all(x, WIDTH, HEIGHT) for x in parts)
    detector = Detector(len(data.class_names), base, dtype, args.seed)
    about = {"data": data.name, "parameters": count_parameters(detector)}
    print(f"{about['parameters']:,} parameters")
    train_step, optimizer = adam_steps(detector, losses)
    settings = cli.settings(args, dtype) | {"training_data": checksum(known)}
    more = args.epochs, len(known) // args.batch_size, args.restart
    run = Run(folder, settings, __file__, *more, detector=detector, optimizer=optimizer)
    train(run, detector, train_step, known, held_back, args)

    found = [detect(detector, image) for image, *_ in tested]
    curves, names = evaluate(found, tested), data.class_names
    metrics = settings | run.metrics(args.batch_size) | about
    metrics |= {"map_50": np.nanmean(curves[:, 0]), "map": np.nanmean(curves)}
    metrics |= {"count_error": count_error(found, tested), "class_names": names}
    files = [report.plot_learning_curves(folder, NAME, metrics["history"])]
    files += plot_answers(detector, tested, folder), plot_curves(curves, names, folder)
    files += run.folder, saved.write_weights(detector, folder)
    return report.finish(folder, metrics, files, argv, args.min_accuracy, "map_50")


# %% What to try next
# * `SUPPRESS = 0.3` and 0.8: which cells are lost, which counted twice?
# * Let `losses` want 1 in place of the IoU: what becomes of `map_50`, what of `map`?
# * `--weights blocks`: is what ImageNet has taught of use with cells?

if __name__ == "__main__":
    cli.run(main)
