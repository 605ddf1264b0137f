"""Example 17: similarity, or have I seen this before?

You will learn how a network compares what it was never trained on: it maps images to
points, *embeddings*, so that drawings of one character lie close together. Then one
drawing is enough to recognise a new character, and photographs find similar ones.

    python examples/example17_similarity_omniglot.py                # downloads 10 MB
    python examples/example17_similarity_omniglot.py --small        # 3 MB, a quarter
    python examples/example17_similarity_omniglot.py --data sample  # offline
    python examples/example17_similarity_omniglot.py --image PATH --photos FOLDER

Prototypes, and the shape of the network, are J. Snell, K. Swersky and R. Zemel's (2017,
https://arxiv.org/abs/1703.05175). Before this one: example 16, segmentation. After it:
whatever you like. docs/results.md has the measured results.
"""

import functools
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from datasets import cats_dogs, omniglot, photographs, pictures, pretrained
from datasets.files import checksum
from examples.helpers.run import Run
from models import sample_vgg16, vgg16_files
from models.augmentation import turn_resize_move
from models.convolution import Convolution
from models.retrieval import cosines
from models.training import accuracy, adam_steps, count_parameters, mean_loss, one_cycle

NAME = Path(__file__).stem
EPOCHS, STEPS, BATCH_SIZE = 10, 150, 200  # steps in an epoch; drawings in a step
OF_EACH = 5  # drawings of a character in a batch: one is the support, four are queries
LEARNING_RATE, WARM_UP = 5e-3, 0.1  # Adam's, at the peak; share of steps until then
SIZE = 35  # pixels; a third of the drawings' 105
ANGLE, ZOOM, SHIFT = 0.25, 0.15, 2  # radians, a logarithm, pixels: at most
CHANNELS = (1, 32, 64, 64, 64)
TEMPERATURE, MARGIN, NEIGHBOURS = 16, 1, 8  # see Prototypes, Triplets, Photographs

# %% Data
# Omniglot (B. Lake et al., Science 2015, https://github.com/brendenlake/omniglot) has
# many classes and few images of each, the opposite of MNIST: each character was drawn
# by 20 people. Some alphabets are held back for validation, whole ones, since the
# question is how well characters are told apart that were *not* there to learn from.
# Turned by a quarter, or mirrored, drawings make eight times as many characters.


def turned(drawings: np.ndarray) -> np.ndarray:
    """Return drawings (C, 20, ...) also turned and mirrored: (8 * C, 20, ...)."""
    both = drawings, drawings[..., ::-1]
    return np.concatenate([np.rot90(x, k, (2, 3)) for x in both for k in range(4)])


# %% Episodes
# A batch is a small test, an *episode*: of some characters one drawing each is known,
# the *support*; the others are *queries*. All are moved a little, as in example 04.


def episode(drawings: np.ndarray, ways: int, rng: np.random.Generator) -> np.ndarray:
    """Choose drawings of some characters, uint8 (ways * OF_EACH, SIZE, SIZE)."""
    chosen = rng.permutation(len(drawings))[:ways]
    return np.concatenate([drawings[i, rng.permutation(20)[:OF_EACH]] for i in chosen])


# %% Model
# Four convolutions (models/convolution.py), each of which halves the image. What comes
# out, 2 x 2 x 64 numbers, is the embedding. No layer has an output for each class: the
# classes to come are not known yet.


class Network(tf.Module):
    """The variables, and the way from drawings to embeddings, computed in `dtype`."""

    def __init__(self, unit: bool, dtype: tf.DType, seed: int):
        super().__init__()
        rng, pairs = np.random.default_rng(seed), itertools.pairwise(CHANNELS)
        self.unit, self.dtype = unit, dtype
        self.layers = [Convolution(*pair, rng, pool=True) for pair in pairs]

    @tf.function(reduce_retracing=True)
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map uint8 (N, SIZE, SIZE) to float32 (N, 256), of length 1 if `unit`."""
        x = tf.cast(images, self.dtype)[..., None] / 255  # (N, 35, 35, 1)
        for layer in self.layers:
            x = layer(x, training)  # (N, 17, 17, 32), ... (N, 2, 2, 64)
        x = tf.reshape(tf.cast(x, tf.float32), [-1, np.prod(x.shape[1:])])
        return tf.math.l2_normalize(x, axis=1) if self.unit else x


# %% Prototypes
# An episode is classified: the logits of a query $x$ say how near its embedding is to
# each class's *prototype* $c_k$, here the embedding of the class's support,
#
# $$z_k = -\lVert f(x) - c_k \rVert^2 / T$$
#
# and the loss is the cross-entropy of example 03. The temperature $T$ matters: squared
# distances over 256 numbers are large; with $T = 1$ the softmax is soon sure of itself.


def squared_distances(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Return |x|^2 - 2 xy + |y|^2 for all pairs of rows, (N, F) and (M, F): (N, M)."""
    lengths = tf.reduce_sum(x**2, axis=1)[:, None] + tf.reduce_sum(y**2, axis=1)
    return tf.nn.relu(lengths - 2 * tf.matmul(x, y, transpose_b=True))


def prototypes(squared: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the loss, from the squared distances (N, N) of a batch's embeddings."""
    asks = tf.range(len(labels)) % OF_EACH > 0
    logits = -squared[asks][:, ::OF_EACH] / TEMPERATURE
    return mean_loss(logits, labels[asks])


# %% Triplets and pairs
# The *triplet loss* wants a drawing to be nearer to the farthest one of its class than
# to the nearest one of another, by a margin: with these hardest ones, and distances not
# squared, as in A. Hermans et al. (2017, https://arxiv.org/abs/1703.07737); squared,
# they let all embeddings collapse into one point. The *contrastive loss* draws pairs of
# a class together and pushes others apart (R. Hadsell et al., CVPR 2006).


def triplet(squared: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the mean loss of each drawing's hardest triplet."""
    same, distances = labels[:, None] == labels, tf.sqrt(squared + 1e-9)
    farthest = tf.reduce_max(tf.where(same, distances, 0), axis=1)
    nearest = tf.reduce_min(tf.where(same, np.inf, distances), axis=1)
    return tf.reduce_mean(tf.nn.relu(farthest - nearest + MARGIN))


def contrastive(squared: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return half the mean loss of all like pairs, and half that of all others."""
    same = labels[:, None] == labels
    pairs = tf.linalg.set_diag(same, tf.zeros(len(labels), bool))  # not with itself
    near = tf.nn.relu(MARGIN - tf.sqrt(squared + 1e-9)) ** 2
    return tf.reduce_mean(squared[pairs]) / 2 + tf.reduce_mean(near[~same]) / 2


LOSSES = {loss.__name__: loss for loss in (prototypes, triplet, contrastive)}


def losses(embeddings: tf.Tensor, labels: tf.Tensor, kind: str) -> dict[str, tf.Tensor]:
    """Return the loss, and how often a first query is nearest to its support."""
    squared = squared_distances(embeddings, embeddings)
    logits = -squared[1::OF_EACH, ::OF_EACH]  # of first queries, for all supports
    hits = accuracy(logits, tf.range(len(logits)))
    return {"loss": LOSSES[kind](squared, labels), "accuracy": hits}


# %% Evaluation
# Omniglot's test has 20 *runs* with characters of alphabets that are not there to learn
# from: 20 drawings by one person, then the same characters by another. Which is which?
# Guessing in this *20-way one-shot classification* is wrong in 95 % of the cases.


def answer(embed, run: omniglot.Run) -> np.ndarray:
    """Return for each test drawing of a run the index of the nearest one shown."""
    shown, asked = embed(run.training), embed(run.test)
    return squared_distances(asked, shown).numpy().argmin(axis=1)


def one_shot_error(embed, runs) -> float:
    """Return the share of wrong answers in runs; embed() makes rows of drawings."""
    return float(np.mean(np.concatenate([answer(embed, r) != r.answers for r in runs])))


# %% Training
# Note 4 explains Adam (models/training.py). Validation asks the alphabets held back.


def train(run: Run, network, train_step, data: omniglot.Characters, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    drawings = data.images[~data.held_back][: (args.train_images or 10**9) // 20]
    known, ways = turned(drawings), args.batch_size // OF_EACH
    if not 2 <= ways <= len(known):
        sizes = f"{2 * OF_EACH} to {OF_EACH * len(known)}; see also --train-images"
        raise cli.UserError(f"--batch-size {args.batch_size} is not within {sizes}")
    labels = tf.repeat(tf.range(ways), OF_EACH)
    for epoch in run:
        for step in run.steps():
            rng = np.random.default_rng([args.seed, epoch, step])
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            seed, images = tf.constant([args.seed, run.step]), episode(known, ways, rng)
            images = turn_resize_move(images[..., None], seed, ANGLE, ZOOM, SHIFT)
            run.record(train_step(rate, images[..., 0], labels))
        error = one_shot_error(network, data.validation_runs)
        run.validate({"validation_accuracy": 1 - error})


# %% Pictures
# t-SNE (L. van der Maaten, G. Hinton, JMLR 9, 2008) puts points of 256 dimensions on a
# plane. It keeps who is whose neighbour, not how far apart the others are.


def plot_run(embed, run: omniglot.Run, path: Path) -> Path:
    """Draw what is asked in a run, each with the answer."""
    answers = answer(embed, run)
    words = np.where(answers == run.answers, "right", "wrong")
    images = 255 - np.stack([run.test, run.training[answers]], axis=1)  # side by side
    more = "Example 17: a run", list(np.insert(words, range(20), "asked")), 8, 0.45
    return report.plot_images(images.reshape(-1, SIZE, SIZE), path, *more)


def plot_plane(embed, drawings: np.ndarray, path: Path) -> Path:
    """Draw all drawings of ten characters where their embeddings lie."""
    from sklearn.manifold import TSNE  # here, since importing it takes a second

    images = drawings[:10].reshape(-1, SIZE, SIZE)
    points = TSNE(method="exact", random_state=0).fit_transform(embed(images))
    figure, axis = report.plt.subplots(figsize=(3.65, 4), layout="constrained")
    for i, (x, y) in enumerate(16 * points / np.ptp(points, axis=0).max()):
        where, one = (x, x + 1, y, y + 1), np.full((SIZE, SIZE), i // 20)
        axis.imshow(one, "tab10", alpha=images[i] / 255, vmin=0, vmax=9, extent=where)
    axis.set(xticks=[], yticks=[], title="Characters never trained on")
    axis.autoscale()
    return report.save_figure(figure, path)


# %% Photographs
# VGG16 tells a thousand classes apart, so that its features (example 11) are a good
# embedding. Most similar is what has the largest *cosine*: the scalar product of two
# embeddings, each divided by its length. A cosine of 1 is the photograph itself.


def find_neighbours(image: np.ndarray, args, dtype, folder: Path) -> dict:
    """Find the photographs, of a folder or an archive, that are most like an image."""
    if args.photos:
        data = photographs.load_pictures(args.photos, args.data_dir / "photos")
    else:
        data = cats_dogs.load(args.data, args.data_dir, small=True)
    kind, make = {"full": "blocks", "sample": "full"}, sample_vgg16.checkpoint
    path = pretrained.find_vgg16(kind[args.data], args.data, args.data_dir, make)
    network, source = vgg16_files.load(path, dtype, pooling=("max5",))
    size, others = network.config.image_size, data.train + data.validation + data.test
    asked = pictures.squared(image, size)
    more = (lambda some: photographs.read_photographs(data, some, size)), data.identify
    similar = cosines(network, source, asked, others, *more, folder / "features")
    best = np.argsort(-similar)[:NEIGHBOURS]
    found = {cli.shown(others[i].name): float(similar[i]) for i in best}
    print(*(f"{cosine:8.3f}  {name}" for name, cosine in found.items()), sep="\n")
    images = photographs.read_photographs(data, [others[i] for i in best], size)
    captions = ["asked", *(f"{cosine:.2f}" for cosine in found.values())]
    more = "Example 17: the most similar photographs", captions, 3, 1.21
    page, images = folder / "neighbours.png", np.concatenate([asked[None], images])
    print("wrote", cli.shown(report.plot_images(images, page, *more)))
    return found


# %% Main program


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or find similar photographs."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--small", action="store_true", help="use the two small sets, 242 characters")
    add("--loss", choices=LOSSES, default="prototypes")
    add("--image", type=Path, metavar="PATH", help="find photographs like this one")
    add("--photos", type=Path, metavar="PATH", help="where --image looks for them")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    if args.photos and not args.image:
        raise cli.UserError("--photos is where --image looks for similar ones: add it")
    if args.image:
        return find_neighbours(pictures.read_picture(args.image), args, dtype, folder)
    data = omniglot.load(args.data, args.data_dir, args.small, SIZE)
    print(data.summary())
    network = Network(args.loss != "prototypes", dtype, args.seed)
    print(f"{(parameters := count_parameters(network)):,} parameters")
    untrained = one_shot_error(network, data.runs)
    pixels = one_shot_error(lambda x: x.reshape(len(x), -1) / 255.0, data.runs)
    print(f"error: {pixels:.4f} by pixels, {untrained:.4f} by the untrained network")

    loss_of = functools.partial(losses, kind=args.loss)
    train_step, optimizer = adam_steps(network, loss_of)
    settings = cli.settings(args, dtype) | {"training_data": checksum([[data.images]])}
    more = args.epochs, STEPS, args.restart
    run = Run(folder, settings, __file__, *more, network=network, optimizer=optimizer)
    train(run, network, train_step, data, args)

    error = one_shot_error(network, data.runs)
    metrics = settings | run.metrics(args.batch_size) | {"parameters": parameters}
    metrics |= {"data": data.name, "one_shot_error": error, "test_accuracy": 1 - error}
    metrics |= {"error_of_pixels": pixels, "error_untrained": untrained}
    files = [report.plot_learning_curves(folder, NAME, metrics["history"])]
    files += [plot_run(network, data.runs[0], folder / "run.png"), run.folder]
    files.append(plot_plane(network, data.images[data.held_back], folder / "plane.png"))
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `TEMPERATURE = 1`: what becomes of the first losses, and of the error?
# * `--loss triplet`, `--loss contrastive`: which needs more steps for the same error?
# * `ANGLE, ZOOM, SHIFT = 0, 0, 0`, or episodes without turned(): what is missed more?

if __name__ == "__main__":
    cli.run(main)
