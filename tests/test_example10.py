"""Checks example 10: that shards hold what the photographs show, and are made once, whole or not at
all; that its pipeline gives each image once an epoch, and goes on where it was left; augmentation
against OpenCV and the network against Keras; and that a run that was stopped, at any moment, ends
with the same weights as one that was not.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from programs import error_of, final_state, run, start, status, stop_when, without_pictures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import cats_dogs  # noqa: E402
from examples import example06_cifar10_cnn_nn as example06  # noqa: E402
from examples import example10_cats_dogs_tfrecord as example10  # noqa: E402
from examples.common import tf  # noqa: E402

DOWNLOADS = ROOT / "datasets" / "downloads"
SIDE, SIZE = example10.SIDE, example10.SIZE
PICTURES = ("learning_curves", "confusion_matrix", "worst_mistakes", "augmented")


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Small networks, small shards, and hardly any time for measuring."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example10, "CHANNELS", (8, 16, 16, 16))
        patch.setattr(example10, "SHARD", 50)
        patch.setattr(example10, "TIMED", 20)
        patch.setattr(example10, "TIMED_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def photographs(sample_dir):
    return cats_dogs.load("sample", sample_dir, validation_share=example10.VALIDATION_SHARE)


def records(paths):
    """Return all records of some shards, taken apart by protobuf: JPEG files and labels."""
    parsed = []
    for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        (jpeg,), (label,) = feature["image"].bytes_list.value, feature["label"].int64_list.value
        parsed.append((jpeg, label))
    return parsed


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    """120 photographs in three shards."""
    folder = tmp_path_factory.mktemp("shards")
    return example10.make_shards(photographs, photographs.train[:120], "train", folder)


# --- Shards ---------------------------------------------------------------------------------------


def test_shards_hold_the_photographs_in_order(photographs, shards):
    assert len(shards) == 3
    found = records(shards)
    assert len(found) == 120
    for (jpeg, label), photograph in zip(found, photographs.train, strict=False):
        assert label == photograph.label
        image = np.asarray(Image.open(io.BytesIO(jpeg)))
        assert image.shape == (SIDE, SIDE, 3)
        original = Image.open(io.BytesIO(photographs.read(photograph)))
        expected = np.asarray(original.resize((SIDE, SIDE), Image.Resampling.BOX), float)
        assert np.abs(image - expected).mean() < 12  # noise, which JPEG does not keep
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.93


def test_shrinking_a_smooth_picture_keeps_its_pixels():
    y, x = np.mgrid[0:256, 0:512]
    picture = np.stack([x / 2, y, 255 - x / 2], axis=-1).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=95)
    small = np.asarray(Image.open(io.BytesIO(example10.shrink(content.getvalue()))), int)
    expected = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    assert np.abs(small - expected).max() <= 6


def test_shrinking_takes_the_mean_of_many_pixels():
    stripes = np.tile(np.uint8([0, 255]), (512, 256))
    content = io.BytesIO()
    Image.fromarray(np.stack([stripes] * 3, axis=-1)).save(content, "JPEG", quality=95)
    small = np.asarray(Image.open(io.BytesIO(example10.shrink(content.getvalue()))))
    assert abs(small.mean() - 127.5) < 3
    assert small.std() < 3


def test_what_is_there_is_not_made_again(photographs, shards, monkeypatch):
    before = {path: os.stat(path).st_mtime_ns for path in shards}
    monkeypatch.setattr(cats_dogs, "decode", lambda _: pytest.fail("decoded again"))
    folder = Path(shards[0]).parent
    assert example10.make_shards(photographs, photographs.train[:120], "train", folder) == shards
    fewer = example10.make_shards(photographs, photographs.train[:100], "train", folder)
    assert fewer == shards[:2]
    assert {path: os.stat(path).st_mtime_ns for path in shards} == before


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_off_a_record(path):
    first = next(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    os.truncate(path, len(first) + 16)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, cut_off_a_record, Path.unlink])
def test_a_damaged_shard_is_made_anew_and_no_other(photographs, shards, tmp_path, damage):
    good = {Path(path).name: Path(path).read_bytes() for path in shards}
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    damaged = tmp_path / Path(shards[1]).name
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != damaged}
    damage(damaged)
    example10.make_shards(photographs, photographs.train[:120], "train", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == good
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("what", ["QUALITY", "SHARD", "another photograph"])
def test_other_photographs_or_sizes_never_meet_old_shards(photographs, shards, monkeypatch, what):
    chosen = photographs.train[:120]
    if what == "another photograph":
        chosen = (*photographs.train[:7], *photographs.test[:1], *photographs.train[8:120])
    else:
        monkeypatch.setattr(example10, what, 40)
    folder = Path(shards[0]).parent
    other = example10.make_shards(photographs, chosen, "train", folder)
    assert other[0] not in shards
    assert [label for _, label in records(other)] == [photograph.label for photograph in chosen]


# --- Pipeline -------------------------------------------------------------------------------------

ARGS = Namespace(seed=3, epochs=3, batch_size=25)


def plain(images, seed):
    """In place of `augment`: what identifies an image, and nothing else."""
    return tf.reduce_mean(tf.cast(images, tf.float64), axis=[1, 2, 3])


def batches(shards, step=0, steps=4, **other):
    args = Namespace(**{**vars(ARGS), **other})
    data = example10.training_batches(shards, args, step, steps)
    return list(data.as_numpy_iterator())


def equal(one, other):
    return len(one) == len(other) and all(map(np.array_equal, sum(one, ()), sum(other, ())))


def test_every_epoch_has_each_image_once_in_another_order(shards, monkeypatch):
    monkeypatch.setattr(example10, "augment", plain)
    images, labels = example10.read_all(shards)
    assert images.shape == (120, SIDE, SIDE, 3)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    known = dict(zip(plain(images, None).numpy().tolist(), labels.tolist(), strict=True))
    assert len(known) == 120
    found = batches(shards)
    assert len(found) == 12
    orders = []
    for epoch in range(3):
        part = found[4 * epoch : 4 * epoch + 4]
        seen = np.concatenate([images for images, _ in part]).tolist()
        assert len(set(seen)) == 100  # 20 of 120 do not fill a batch
        assert [known[image] for image in seen] == np.concatenate([b for _, b in part]).tolist()
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]
    assert set(orders[0]) != set(orders[1])  # not always the same are left over


def test_the_shuffling_mixes_all_shards(shards, monkeypatch):
    monkeypatch.setattr(example10, "augment", plain)
    order = plain(example10.read_all(shards)[0], None).numpy().tolist()
    places = [order.index(image) for images, _ in batches(shards)[:4] for image in images.tolist()]
    assert abs(np.corrcoef(places, range(100))[0, 1]) < 0.3


def test_batches_go_on_where_they_were_left(shards):
    every = batches(shards)
    assert len(every) == 12
    for step in (0, 4, 7, 11):
        assert equal(batches(shards, step), every[step:])
    assert not equal(every, batches(shards, seed=4))


# --- Augmentation ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(shards):
    return example10.read_all(shards)[0]


def test_the_whole_image_is_resized_as_opencv_resizes(images):
    expected = np.stack([cv2.resize(image, (SIZE, SIZE)) for image in images[:20]])
    seen = example10.seen(images[:20])
    assert seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - expected).max() <= 1
    mirrored = example10.seen(images[:20], (0, 0, 0, 0, 0, 1))
    assert np.abs(mirrored[:, :, ::-1].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mirror", [-1, 1])
def test_warping_is_what_opencv_does_with_the_same_matrix(images, mirror):
    """The matrix is built here from its parts: scale and mirror, then turn, then move."""
    rng = np.random.default_rng(2)
    for image in images[:20]:
        zoom, stretch, angle, right, down = rng.uniform(-0.2, 0.2, 5)
        scale = np.diag([-mirror * np.exp(zoom + stretch), np.exp(zoom - stretch)]) * SIDE / SIZE
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        linear = np.array(turn) @ scale
        centre = (SIDE - 1) / 2 + SIDE * np.array([right, down])
        offset = centre - linear @ np.full(2, (SIZE - 1) / 2)
        expected = cv2.warpAffine(
            image,
            np.column_stack([linear, offset]),
            (SIZE, SIZE),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        seen = example10.seen(image[None], (zoom, stretch, angle, right, down, mirror))[0]
        # OpenCV rounds places to 1/32 of a pixel, which tells where there is noise.
        assert np.abs(seen.astype(int) - expected).mean() < 2


def test_views_are_ten_and_differ(images):
    views = np.stack([example10.seen(images[:5], view) for view in example10.VIEWS])
    assert len(views) == 10
    assert np.array_equal(views[0], example10.seen(images[:5]))
    flat = views.reshape(10, -1).astype(int)
    assert all(np.abs(flat[i] - flat[j]).mean() > 1 for i in range(10) for j in range(i))


def test_augmentation_depends_on_its_seed_alone(images):
    first, again, other = (
        example10.augment(tf.constant(images), tf.constant(seed, tf.int64)).numpy()
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    assert first.shape == (120, SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_colours_change_within_their_limits():
    grey = tf.fill([2000, SIDE, SIDE, 3], tf.constant(128, tf.uint8))
    out = example10.augment(grey, tf.constant([0, 0], tf.int64)).numpy()
    colours = out[:, 0, 0].astype(int)
    assert np.array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))
    limit = round(128 * example10.COLOUR)
    assert colours.min() in range(128 - limit - 1, 128 - limit + 3)
    assert colours.max() in range(128 + limit - 3, 128 + limit + 1)
    assert abs(colours.mean() - 128) < 2
    assert np.ptp(colours, axis=1).mean() > 10  # of red, green and blue each by itself


# --- Network, loss and update rule ----------------------------------------------------------------


@pytest.fixture
def network(images):
    return example10.Network(example10.seen(images), tf.float32, seed=3)


def keras_twin(network):
    """Return a Keras model of the same shape with the same weights; it takes centred images."""
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((SIZE, SIZE, 3))])

    def convolution(kernel, stride=1):
        layer = layers.Conv2D(
            kernel.shape[-1], kernel.shape[0], stride, padding="same", use_bias=False
        )
        model.add(layer)
        layer.set_weights([tf.convert_to_tensor(kernel).numpy()])

    convolution(network.whitening, 2)
    for i, kernel in enumerate(network.kernels):
        convolution(kernel)
        if i % 2 == 0:
            model.add(layers.MaxPool2D())
        norm = layers.BatchNormalization(momentum=example10.KEEP, epsilon=1e-5, scale=False)
        model.add(norm)
        statistics = network.offsets, network.moving_means, network.moving_variances
        norm.set_weights([values[i].numpy() for values in statistics])
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    head = layers.Dense(2, use_bias=False)
    model.add(head)
    head.set_weights([network.head.numpy()])
    return model


@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_those_of_keras(network, images, training):
    rng = np.random.default_rng(0)
    for values in (*network.kernels, *network.offsets, *network.moving_means):
        values.assign_add(rng.normal(0, 0.1, values.shape))
    for values in network.moving_variances:
        values.assign(rng.uniform(0.5, 2, values.shape))
    seen = example10.seen(images[:16])
    expected = keras_twin(network)(seen - network.mean, training=training) * example10.LOGIT_SCALE
    logits = network(seen, training=training)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-5)


def test_whitened_patches_are_uncorrelated(images):
    seen = example10.seen(images)
    mean, kernels = example10.whitening_kernels(seen)
    np.testing.assert_array_equal(mean, np.rint(seen.mean(axis=(0, 1, 2))))
    patches = tf.nn.conv2d(seen - mean, kernels, strides=3, padding="VALID")
    covariance = np.cov(patches.numpy().reshape(-1, example10.COMPONENTS), rowvar=False)
    variances = np.diag(covariance)  # below 1 where little varies, so that noise stays small
    assert np.all(np.diff(variances) > 0)
    assert 0.7 < variances[0] < variances[-1] < 1
    np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-3)


def test_loss_and_update_rule_are_those_of_example_06(monkeypatch):
    """Which are checked against Keras and the singular value decomposition."""
    for name in ("MOMENTUM", "WEIGHT_DECAY", "HEAD_RATE", "OFFSET_RATE", "LABEL_SMOOTHING"):
        monkeypatch.setattr(example06, name, getattr(example10, name))
    rng = np.random.default_rng(4)
    logits = tf.constant(rng.normal(0, 3, (9, 2)), tf.float32)
    labels = rng.integers(0, 2, 9)
    assert example10.mean_loss(logits, labels) == example06.mean_loss(logits, labels)
    for shape in ((3, 3, 8, 16), (3, 3, 4, 4), (16, 2), (7,)):
        results = []
        for example in (example06, example10):
            rng = np.random.default_rng(5)
            variable = tf.Variable(rng.normal(size=shape), dtype=tf.float32)
            velocity = tf.Variable(rng.normal(size=shape), dtype=tf.float32)
            gradient = tf.constant(rng.normal(size=shape), tf.float32)
            for _ in range(3):
                example.update(variable, velocity, gradient, tf.constant(0.01), tf.float32)
            results.append(variable.numpy())
        np.testing.assert_allclose(*results, rtol=1e-6)


def test_predictions_do_not_depend_on_their_neighbours(network, images):
    together = example10.predict(network, images)
    np.testing.assert_allclose(example10.predict(network, images[5:6])[0], together[5], atol=1e-5)
    many = np.concatenate([images] * 5)  # more than a batch
    np.testing.assert_allclose(example10.predict(network, many)[:120], together, atol=1e-5)


# --- A short run on sample data -------------------------------------------------------------------

TINY = "--data sample --train-images 200 --batch-size 25 --epochs 3"
STEPS = 8  # in an epoch


def tiny(sample_dir, models_dir, *more):
    folders = ["--data-dir", str(sample_dir), "--models-dir", str(models_dir)]
    return [*TINY.split(), *folders, *more]


@pytest.fixture(scope="module")
def short_run(sample_dir, tmp_path_factory):
    """Return the folder with the results, the metrics, the output and the final state."""
    models_dir = tmp_path_factory.mktemp("models")
    metrics, output = run(example10.main, *tiny(sample_dir, models_dir))
    return models_dir / example10.NAME, metrics, output, final_state(models_dir)


def test_it_learns(short_run):
    _, metrics, _, _ = short_run
    loss = metrics["history"]["loss"]
    assert loss[-1] < loss[0]
    assert metrics["test_accuracy"] > 0.8  # chance is 0.5
    assert metrics["test_accuracy_from_one_view"] > 0.8


def test_metrics_and_output(short_run):
    folder, metrics, output, _ = short_run
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    expected = {"test_accuracy", "train_seconds", "total_seconds", "images_per_second"}
    expected |= {"parameters", "epochs", "seed", "precision", "data", "command", "versions"}
    assert expected | {"machine", "history"} <= metrics.keys()
    assert metrics["data"] == "sample data: drawn cats and dogs"
    assert metrics["left_out"] == 8
    assert "200 training, 39 validation and 200 test images; 8 files left out" in output
    assert "train.zip.report.json" in output
    speeds = metrics["images_per_second_by_way"]
    assert len(speeds) == 6
    for way, speed in speeds.items():
        assert speed > 0
        assert f"{speed:9,}  {way}\n" in output
    assert max(map(len, output.splitlines())) < 250


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_not_blank(short_run, name):
    folder, _, _, _ = short_run
    with Image.open(folder / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 100
    assert pixels.std() > 5


def test_nothing_is_left_lying_about(short_run):
    folder, _, _, _ = short_run
    names = [path.name for path in (folder / "shards").iterdir()]
    assert all(name.endswith(".tfrecord") for name in names)
    assert len(names) == 4 + 1 + 4


def test_a_second_run_converts_and_trains_nothing_more(short_run, sample_dir, capsys, monkeypatch):
    folder, metrics, _, _ = short_run
    monkeypatch.setattr(example10.Training, "train_step", lambda *_: pytest.fail("trained"))
    before = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    arguments = tiny(sample_dir, folder.parent, "--min-accuracy", "0.5")
    again = without_pictures(example10.main, *arguments)
    assert f"going on after step {3 * STEPS}" in capsys.readouterr().out
    for key in ("history", "test_accuracy", "test_accuracy_from_one_view", "train_seconds"):
        assert again[key] == metrics[key], key
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- Stopped in the middle, and continued ---------------------------------------------------------
# Each run is broken in a process of its own, with the small network and shards of these tests.

BREAK = """
    import contextlib, os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from examples import common, example10_cats_dogs_tfrecord as example10

    number, when = getattr(signal, sys.argv[2]), int(sys.argv[3])
    sys.argv[1:] = sys.argv[4:]
    example10.CHANNELS, example10.SHARD = (8, 16, 16, 16), 50

    def train(training, *rest, train=example10.train, ctrl_c=common.ctrl_c):
        @contextlib.contextmanager
        def broken_after_a_step():
            with ctrl_c() as stop_asked:
                yield lambda: break_after_a_step() or stop_asked()

        def break_after_a_step():
            if int(training.step) == when:
                os.kill(os.getpid(), number)

        common.ctrl_c = broken_after_a_step
        train(training, *rest)

    example10.train = train
    common.run(example10.main)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_that_was_stopped_ends_with_the_same_weights(short_run, sample_dir, tmp_path):
    _, metrics, _, state = short_run
    processes = {}
    for name, when in (("SIGINT", STEPS + 3), ("SIGKILL", 2 * STEPS + 2)):
        arguments = tiny(sample_dir, tmp_path / name)
        script = ["-c", textwrap.dedent(BREAK), ROOT, name, when]
        processes[name] = start(*script, *arguments)
    for name, process in processes.items():
        output, errors = process.communicate(timeout=120)
        assert process.returncode == {"SIGINT": 130, "SIGKILL": -9}[name], errors
        assert "Traceback" not in errors
        if name == "SIGINT":
            assert f"stopped after step {STEPS + 3}; saved " in output
            assert "the same command goes on" in errors.splitlines()[-1]
        tf.random.set_seed(0)  # whatever another example has left behind
        continued = without_pictures(example10.main, *tiny(sample_dir, tmp_path / name))
        found = final_state(tmp_path / name)
        assert found.keys() == state.keys()
        assert len(found) > 30
        assert [key for key in state if found[key] != state[key]] == []
        assert continued["test_accuracy"] == metrics["test_accuracy"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_stopped_while_shards_are_made(photographs, sample_dir, tmp_path, monkeypatch, number):
    folder = tmp_path / example10.NAME / "shards"
    slow = """
        import sys, time
        sys.path.insert(0, sys.argv.pop(1))
        from examples import common, example10_cats_dogs_tfrecord as example10
        shrink = example10.shrink
        example10.SHARD, example10.inspect.getsource = 50, lambda _: ""
        example10.shrink = lambda jpeg: time.sleep(0.01) or shrink(jpeg)
        common.run(example10.main)
    """
    process = start("-c", textwrap.dedent(slow), ROOT, *tiny(sample_dir, tmp_path))
    stop_when(process, lambda: len(list(folder.glob("*.tfrecord"))) >= 2, number)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert 2 <= len(kept) < 4
    assert len(list(folder.glob("*.part"))) <= 1
    monkeypatch.setattr(example10.inspect, "getsource", lambda _: "")
    shards = example10.make_shards(photographs, photographs.train[:200], "train", folder)
    assert len(records(shards)) == 200
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # none was made twice
    assert set(map(str, kept)) <= set(shards)


# --- What can go wrong ----------------------------------------------------------------------------


def test_too_few_images_for_a_batch(sample_dir, tmp_path, capsys):
    error = error_of(example10.main, capsys, *tiny(sample_dir, tmp_path, "--train-images", "24"))
    assert "24" in error
    assert "--batch-size" in error


def test_below_the_accuracy_asked_for(short_run, sample_dir, capsys):
    folder, metrics, _, _ = short_run
    arguments = tiny(sample_dir, folder.parent, "--min-accuracy", "1.01")
    error = error_of(lambda argv: without_pictures(example10.main, *argv), capsys, *arguments)
    assert f"{metrics['test_accuracy']:.4f}" in error


def test_a_loss_that_is_no_number(short_run, sample_dir, tmp_path, capsys):
    shutil.copytree(short_run[0] / "shards", tmp_path / example10.NAME / "shards")
    arguments = tiny(sample_dir, tmp_path, "--learning-rate", "1e30")
    error = error_of(example10.main, capsys, *arguments)
    assert "nan" in error
    assert "--learning-rate" in error


def test_an_archive_that_is_none(tmp_path, capsys):
    path = tmp_path / "cats_dogs" / "train.zip"
    path.parent.mkdir()
    path.write_text("no archive")
    arguments = ["--data-dir", str(tmp_path), "--models-dir", str(tmp_path / "models")]
    assert str(path) in error_of(example10.main, capsys, *arguments)
    assert not (tmp_path / "models").exists()


def test_results_that_cannot_be_written(sample_dir, tmp_path, capsys):
    occupied = tmp_path / "occupied"
    occupied.touch()
    assert str(occupied) in error_of(example10.main, capsys, *tiny(sample_dir, occupied))


def test_a_full_disk_while_shards_are_made(sample_dir, tmp_path, capsys, monkeypatch):
    @contextlib.contextmanager
    def writer(path):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device\nmore")
        yield

    monkeypatch.setattr(tf.io, "TFRecordWriter", writer)
    error = error_of(example10.main, capsys, *tiny(sample_dir, tmp_path))
    assert "No space left on device" in error
    assert str(tmp_path) in error


@pytest.mark.parametrize("flags", ["--epochs 0", "--batch-size 0", "--data none", "--nonsense"])
def test_wrong_flags_are_status_2(flags, capsys):
    code, lines = status(example10.main, capsys, *flags.split())
    assert code == 2
    assert flags.split()[0] in lines[-1]


# --- The real photographs -------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.skipif(
    not (DOWNLOADS / "cats_dogs" / "train.zip").is_file(),
    reason="lay Kaggle's train.zip, or a part of it, in datasets/downloads/cats_dogs",
)
def test_it_learns_from_real_photographs(tmp_path):
    flags = "--train-images 600 --epochs 5 --batch-size 50"
    metrics = without_pictures(example10.main, *flags.split(), "--models-dir", tmp_path)
    assert "photographs of cats and dogs" in metrics["data"]
    assert metrics["test_accuracy"] > 0.58  # chance is 0.5
