"""Example 16: segmentation, every pixel of a microscope image, and every nucleus.

You will learn how a network answers for each pixel: the U-Net, which looks at an image
from afar and from near; what unbalanced classes do to cross-entropy, and what Dice
changes; how pixels become objects that can be counted; how both are scored.

    python examples/example16_segmentation_nuclei.py                # downloads once
    python examples/example16_segmentation_nuclei.py --data sample  # offline, drawings
    python examples/example16_segmentation_nuclei.py --image PATH   # of any size

The U-Net is O. Ronneberger, P. Fischer and T. Brox's (2015,
https://arxiv.org/abs/1505.04597). Images and score are those of the 2018 Data Science
Bowl; its winners, too, had a class to keep nuclei apart (J. Caicedo et al. 2019,
https://doi.org/10.1038/s41592-019-0612-7). Before this one: example 15, detection.
After it: example 17, similarity. docs/results.md has the measured results.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import cv2
import numpy as np
import tensorflow as tf
from scipy import ndimage
from tqdm import tqdm

from datasets import nuclei, pictures
from datasets.files import checksum
from examples.helpers.run import Run
from models import saved
from models.augmentation import random_square
from models.convolution import Convolutions, enlarge, in_strips
from models.training import adam_steps, count_parameters, one_cycle

NAME = Path(__file__).stem
EPOCHS, STEPS, BATCH_SIZE = 9, 360, 8  # steps in an epoch; crops in a step
LEARNING_RATE, WARM_UP = 3e-3, 0.1  # Adam's, at the peak; share of steps until then
CROP = 128  # pixels of height and width of the squares that it learns from
CHANNELS = (32, 48, 64, 96)  # at a half, a quarter, an eighth, a sixteenth of the size
CORE_DEPTH, SMALLEST = 0.5, 30  # of the greatest depth; pixels of a nucleus, at least
OPEN = 0.3  # a pixel is a nucleus' if background is less likely; from validation
BACKGROUND, CORE, RIM = range(3)  # the classes of pixels
THRESHOLDS = np.arange(50, 100, 5) / 100  # of the IoU from which a nucleus is a hit
VIEWS = (1, 1), (1, -1), (-1, 1), (-1, -1)  # steps down and right: -1 mirrors

# %% Data
# Images of several microscopes, with a mask for every nucleus (datasets/nuclei.py).
# Nuclei touch, and would become one. So their pixels are of two classes: those far
# from the edge, the *core*, and the *rim*; cores do not touch. The network learns from
# turned and resized squares (models/augmentation.py). Square roots show dim nuclei.


def edges_of(instances: np.ndarray) -> np.ndarray:
    """Tell which pixels have a neighbour of another number, bool (H, W)."""
    square, numbers = np.ones((3, 3), np.uint8), instances.astype(np.uint16)
    return cv2.dilate(numbers, square) != cv2.erode(numbers, square)


def classes_of(instances: np.ndarray) -> np.ndarray:
    """Turn numbers of nuclei, int (H, W), into classes of pixels, uint8 (H, W)."""
    inner = (instances > 0) & ~edges_of(instances)
    depth = cv2.distanceTransform(inner.astype(np.uint8), cv2.DIST_L2, 3)
    deepest = ndimage.maximum(depth, instances, np.arange(instances.max() + 1))
    core = depth >= CORE_DEPTH * np.array(deepest)[instances]
    return (np.where(core, CORE, RIM) * (instances > 0)).astype(np.uint8)


def normalise(image: np.ndarray) -> np.ndarray:
    """Bring an image to mean 0, variance 1 and dark ground: float32 (H, W, 3)."""
    dark = nuclei.kind(image) == "fluorescence"
    root = np.sqrt(image if dark else 255 - image, dtype=np.float32)
    return (root - root.mean()) / (root.std() + 0.1)


# %% Model
# The *U-Net* goes down, each level at half the resolution of the one before, and up
# again; there, *skip connections* lay what each level has seen beside what comes up.
# To save work, the first level takes pixels four at a time, as 12 channels; what comes
# up is laid beside the image itself in the end.


class UNet(tf.Module):
    """The variables, and the way from images to logits, computed in `dtype`."""

    def __init__(self, dtype: tf.DType, seed: int):
        super().__init__()
        self.dtype, rng, inputs = dtype, np.random.default_rng(seed), 12
        self.down, self.up = [], []
        for level, outputs in enumerate(CHANNELS):
            pool = (0,) if level else ()
            self.down.append(Convolutions(rng, inputs, outputs, outputs, pool=pool))
            if level:
                self.up.append(Convolutions(rng, inputs + outputs, inputs, inputs))
            inputs = outputs
        self.last = Convolutions(rng, 3 + CHANNELS[0], 16, 16)
        kernel = rng.normal(0, 0.25, (1, 1, 16, 3))  # zeros would keep classes alike
        self.kernel = tf.Variable(kernel, dtype=tf.float32)

    @tf.function(reduce_retracing=True)
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute logits (N, H, W, 3) from images; H and W are multiples of 16."""
        images = tf.cast(images, self.dtype)
        x, levels = tf.nn.space_to_depth(images, 2), []  # (N, H/2, W/2, 12)
        for layers in self.down:
            x = layers(x, training)
            levels.append(x)
        for layers, near in zip(self.up[::-1], levels[-2::-1], strict=True):
            x = layers(tf.concat([near, enlarge(x)], axis=-1), training)
        x = self.last(tf.concat([images, enlarge(x)], axis=-1), training)
        x = tf.nn.conv2d(x, tf.cast(self.kernel, self.dtype), strides=1, padding="SAME")
        return tf.cast(x, tf.float32)


# %% Loss
# Most pixels are background, and a network that knows only these has a small
# cross-entropy. *Dice* is about the other classes alone: twice what found and true area
# have in common, over their sum (F. Milletari et al., https://arxiv.org/abs/1606.04797).


def losses(logits: tf.Tensor, classes: tf.Tensor, kind: str) -> dict[str, tf.Tensor]:
    """Return the loss of logits (N, H, W, 3), and the mean Dice of core and rim."""
    true = tf.one_hot(classes, 3)
    entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(true, logits))
    found = tf.nn.softmax(logits)
    common = tf.reduce_sum(found * true, axis=[0, 1, 2])  # of each class, (3,)
    both = tf.reduce_sum(found + true, axis=[0, 1, 2])
    dice = tf.reduce_mean((2 * common / (both + 1))[CORE:])
    parts = {"cross-entropy": entropy, "dice": 1 - dice, "both": entropy + 1 - dice}
    return {"loss": parts[kind], "dice": dice}


# %% From pixels to nuclei
# Each *connected component* of the cores is a nucleus, and so is a part of the mask
# without a core; the mask's other pixels belong to the nearest one.


def predict(network: UNet, image: np.ndarray, views: int = len(VIEWS)) -> np.ndarray:
    """Return probabilities (H, W, 3), means of some VIEWS, of uint8 (H, W, 3)."""
    (height, width, _), sums = image.shape, 0
    border = (0, -height % 16), (0, -width % 16), (0, 0)
    x = np.pad(normalise(image), border, mode="symmetric")
    for down, right in VIEWS[:views]:
        logits = in_strips(network, x[::down, ::right])
        sums += tf.nn.softmax(logits).numpy()[::down, ::right]
    return sums[:height, :width] / views


def find_nuclei(probabilities: np.ndarray) -> np.ndarray:
    """Number the nuclei, int64 (H, W); 0 is background."""
    mask = probabilities[..., BACKGROUND] < OPEN
    core, (parts, _) = probabilities.argmax(axis=-1) == CORE, ndimage.label(mask)
    seeds, _ = ndimage.label(core | (mask & ~np.isin(parts, parts[core])))
    if not seeds.any():
        return seeds
    _, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    numbers = seeds[tuple(nearest)] * mask
    large = np.bincount(numbers.ravel()) >= SMALLEST
    large[0] = False
    return (np.cumsum(large) * large)[numbers]


def otsu(image: np.ndarray) -> np.ndarray:
    """Find nuclei without a network, by N. Otsu's threshold (1979): bool (H, W)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return bright == (nuclei.kind(image) == "fluorescence")


# %% Scores
# IoU and Dice are those of the pixels of all images together. A nucleus is a hit if its
# IoU with a true one is above a threshold; the competition's score divides the hits by
# hits, false positives and misses, and is averaged over images (and ten thresholds).


def nuclei_score(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Compare nuclei (H, W): hits / (hits + invented + missed), (10,)."""
    shape = int(found.max()) + 1, int(true.max()) + 1
    pairs = np.ravel_multi_index((found.ravel(), true.ravel()), shape)
    common = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    either = common.sum(1, keepdims=True) + common.sum(0, keepdims=True) - common
    iou = (common / np.maximum(either, 1))[1:, 1:]
    hits = np.array([(iou > threshold).sum() for threshold in THRESHOLDS])
    return hits / np.maximum(sum(iou.shape) - hits, 1)


def evaluate(network: UNet, images, views: int = len(VIEWS)) -> dict[str, dict]:
    """Return scores of the network and of Otsu's threshold: of "all", and by kind."""
    kinds, areas, hits, scores = [nuclei.kind(x.image) for x in images], [], [], {}
    for each in tqdm(images, "evaluating", leave=False, delay=2):
        probabilities, true = predict(network, each.image, views), each.instances > 0
        masks = np.stack([probabilities[..., BACKGROUND] < OPEN, otsu(each.image)])
        areas.append([(masks & true).sum((1, 2)), (masks | true).sum((1, 2))])
        found = find_nuclei(probabilities), *(ndimage.label(mask)[0] for mask in masks)
        hits.append([nuclei_score(some, each.instances) for some in found])
    for kind in ["all", *sorted(set(kinds))]:
        chosen = [kind in ("all", own) for own in kinds]
        common, either = np.array(areas)[chosen].sum(axis=0)
        (iou, otsu_iou), curves = common / either, np.array(hits)[chosen].mean(axis=0)
        scores[kind] = {"iou": iou, "dice": 2 * iou / (1 + iou), "otsu_iou": otsu_iou}
        names = "score", "score_of_components", "otsu_score"
        scores[kind] |= dict(zip(names, curves.mean(axis=1), strict=True))
        scores[kind]["score_50"] = curves[0, 0]
    return scores


# %% Pictures and answers


def outlined(image: np.ndarray, instances: np.ndarray, colour) -> np.ndarray:
    """Draw the edges of nuclei on an image."""
    return np.where(edges_of(instances)[..., None], np.uint8(colour), image)


def plot_answers(network: UNet, images, path: Path) -> Path:
    """Draw images, the true nuclei in green, those found in red."""
    pages: list = []
    for _, image, true in images:
        found = outlined(image, find_nuclei(predict(network, image)), (255, 0, 0))
        pages += image, outlined(image, true, (0, 200, 0)), found
    more = ["image", "true nuclei", "nuclei found"] * len(images), 3, 1.21
    return report.plot_images(pages, path, "Example 16", *more)


def answer(path: Path, folder: Path, dtype) -> dict:
    """Count the nuclei of a picture, and outline them."""
    network = UNet(dtype, seed=0)
    saved.read_weights(network, folder, __file__)
    image = pictures.read_picture(path, enough=pictures.MAX_PIXELS)
    found = find_nuclei(predict(network, image))
    print(f"{found.max()} nuclei, {np.mean(found > 0):.1%} of the picture")
    with cli.writing(page := folder / "picture.png"):
        report.plt.imsave(page, outlined(image, found, (255, 0, 0)))
    print("wrote", cli.shown(page))
    return {"nuclei": int(found.max()), "share": float(np.mean(found > 0))}


# %% Training
# Note 4 explains Adam (models/training.py). A step sees a square of each image chosen.


def train(run: Run, network: UNet, train_step, data, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    images = data.train[: args.train_images]
    pairs = [(normalise(x.image), classes_of(x.instances)) for x in images]
    for epoch in run:
        for step in run.steps():
            rng = np.random.default_rng([args.seed, epoch, step])
            chosen = rng.integers(len(pairs), size=args.batch_size)
            crops = [random_square(*pairs[i], CROP, rng) for i in chosen]
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            run.record(train_step(rate, *map(np.stack, zip(*crops, strict=True))))
        scores = evaluate(network, data.validation, views=1)["all"]
        run.validate({f"validation_{name}": scores[name] for name in ("iou", "score")})


# %% Main program


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or find nuclei in a picture."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--loss", choices=["both", "cross-entropy", "dice"], default="both")
    add("--image", type=Path, metavar="PATH", help="a picture, of any size")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    if args.image:
        return answer(args.image, folder, dtype)
    data = nuclei.load(args.data, args.data_dir)
    print(data.summary(args.train_images))
    network = UNet(dtype, args.seed)
    print(f"{(parameters := count_parameters(network)):,} parameters")
    loss_of = functools.partial(losses, kind=args.loss)
    train_step, optimizer = adam_steps(network, loss_of)
    settings, more = cli.settings(args, dtype), (args.epochs, STEPS, args.restart)
    settings["training_data"] = checksum(x[1:] for x in data.train[: args.train_images])
    run = Run(folder, settings, __file__, *more, network=network, optimizer=optimizer)
    train(run, network, train_step, data, args)

    kinds, shown = evaluate(network, data.test), []
    metrics = settings | run.metrics(args.batch_size) | kinds.pop("all")
    metrics |= {"data": data.name, "parameters": parameters, "kinds": kinds}
    for kind, scores in kinds.items():
        print(kind, *(f"{name} {scores[name]:.3f}" for name in scores), sep=", ")
        shown += [each for each in data.test if nuclei.kind(each.image) == kind][:2]
    files = [saved.write_weights(network, folder), run.folder]
    files.append(report.plot_learning_curves(folder, NAME, metrics["history"]))
    files.append(plot_answers(network, shown, folder / "answers.png"))
    return report.finish(folder, metrics, files, argv, args.min_accuracy, "iou")


# %% What to try next
# * `--loss cross-entropy`, `--loss dice`: which one misses small nuclei?
# * `CORE_DEPTH = 0.1` and 0.8: what becomes of nuclei that touch, and of others?

if __name__ == "__main__":
    cli.run(main)
