"""Checks example 10: shards, pipeline, augmentation by OpenCV, network by example 14, stops."""

import io
import itertools
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from programs import (
    ROOT,
    arguments,
    check_ctrl_c,
    check_stopped,
    error_of,
    final_state,
    start,
    start_to_be_killed,
    status,
    stop_when,
    without_pictures,
)

from datasets import cats_dogs
from examples import example10_cats_dogs_tfrecord as example10
from examples import example14_cifar10_record as example14
from examples.helpers.report import tf
from models import airbench, augmentation

SIDE, SIZE = example10.SIDE, example10.SIZE
SMALLER = """
from examples import example10_cats_dogs_tfrecord as e
e.CHANNELS, e.SHARD, e.TIMED, e.TIMED_SECONDS = (8, 16, 16, 16), 50, 20, 0.02
"""


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Small networks, small shards, and hardly any time for measuring."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CHANNELS", "SHARD", "TIMED", "TIMED_SECONDS"):
            patch.setattr(example10, name, getattr(example10, name))  # to be set back
        exec(SMALLER)
        yield


@pytest.fixture(scope="module")
def photographs(sample_dir):
    return cats_dogs.load("sample", sample_dir, validation_share=example10.VALIDATION_SHARE)


def records(paths):
    """Return all records of some shards, taken apart by protobuf: JPEG files and labels."""
    for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        yield feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    """120 photographs in three shards."""
    folder = tmp_path_factory.mktemp("shards")
    return example10.make_shards(photographs, "train", photographs.train[:120], folder)


@pytest.fixture(scope="module")
def images(shards):
    return example10.read_all(shards)[0]


# --- Shards ---------------------------------------------------------------------------------------


def test_shards_hold_the_photographs_in_order(photographs, shards):
    for (jpeg, label), photograph in zip(records(shards), photographs.train[:120], strict=True):
        assert label == photograph.label
        image = np.asarray(Image.open(io.BytesIO(jpeg)))
        original = Image.open(io.BytesIO(photographs.read(photograph))).convert("RGB")
        expected = np.asarray(original.resize((SIDE, SIDE), Image.Resampling.BOX), float)
        assert np.abs(image - expected).mean() < 12  # noise, which JPEG does not keep
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.93


def test_shrinking_takes_the_mean_of_many_pixels():
    stripes = np.tile(np.uint8([0, 255]), (512, 256))
    content = io.BytesIO()
    Image.fromarray(np.stack([stripes] * 3, axis=-1)).save(content, "JPEG", quality=95)
    small = np.asarray(Image.open(io.BytesIO(example10.shrink(content.getvalue()))), int)
    assert small.shape == (SIDE, SIDE, 3)
    assert np.abs(small - 127.5).max() < 9


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off_a_record(path):
    first = next(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    os.truncate(path, len(first) + 16)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off_a_record, Path.unlink])
def test_a_damaged_shard_is_made_anew_and_no_other(photographs, shards, tmp_path, damage):
    good = {Path(path).name: Path(path).read_bytes() for path in shards}
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    damaged = tmp_path / Path(shards[1]).name
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != damaged}
    damage(damaged)
    for count in (120, 100):  # 100 need no other shards than the first two of 120
        example10.make_shards(photographs, "train", photographs.train[:count], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == good
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("what", ["QUALITY", "VERSION", "SHARD", "another photograph"])
def test_other_photographs_or_sizes_never_meet_old_shards(photographs, shards, monkeypatch, what):
    chosen = photographs.train[:120]
    if what == "another photograph":
        chosen = (*photographs.train[:7], *photographs.test[:1], *photographs.train[8:120])
    else:
        monkeypatch.setattr(example10, what, 40)
    other = example10.make_shards(photographs, "train", chosen, Path(shards[0]).parent)
    assert other[0] not in shards
    assert [label for _, label in records(other)] == [photograph.label for photograph in chosen]


# --- Pipeline -------------------------------------------------------------------------------------


def plain(images, labels=None, *_):
    """In place of `augment`: what identifies an image, and nothing else."""
    return tf.reduce_mean(tf.cast(images, tf.float64), axis=[1, 2, 3]), labels


def batches(shards, step=0, seed=3):
    data = example10.training_batches(shards, seed, 3, 25, 4, step)
    return list(data.as_numpy_iterator())


def test_every_epoch_has_each_image_once_in_another_order(shards, images, monkeypatch):
    monkeypatch.setattr(example10, "augment", plain)
    labels = example10.read_all(shards)[1]
    known = dict(zip(plain(images)[0].numpy().tolist(), labels.tolist(), strict=True))
    assert len(known) == 120
    epochs = [batches(shards)[4 * epoch :][:4] for epoch in range(3)]
    orders = [np.concatenate([values for values, _ in epoch]).tolist() for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert len(set(order)) == 100  # 20 of 120 do not fill a batch
        labels = np.concatenate([labels for _, labels in epoch]).tolist()
        assert [known[image] for image in order] == labels
    assert orders[0] != orders[1] != orders[2]
    assert set(orders[0]) != set(orders[1])  # not always the same are left over
    places = [list(known).index(image) for image in orders[0]]
    assert abs(np.corrcoef(places, range(100))[0, 1]) < 0.3  # all shards are mixed


def test_batches_go_on_where_they_were_left(shards):
    every = batches(shards)
    for step in (0, 4, 7, 11):
        for one, other in zip(batches(shards, step), every[step:], strict=True):
            assert all(map(np.array_equal, one, other))
    assert not np.array_equal(every[0][0], batches(shards, seed=4)[0][0])


# --- Augmentation and network ---------------------------------------------------------------------


def test_warping_is_what_opencv_does_with_the_same_matrix(images):
    """The matrix is built here from its parts: scale and mirror, then turn, then move."""
    rng = np.random.default_rng(2)
    for i, image in enumerate(images[:20]):
        zoom, stretch, angle, right, down = rng.uniform(-0.2, 0.2, 5)
        mirror = 1 if i % 2 else -1
        scale = np.diag([-mirror * np.exp(zoom + stretch), np.exp(zoom - stretch)]) * SIDE / SIZE
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        linear = np.array(turn) @ scale
        centre = (SIDE - 1) / 2 + SIDE * np.array([right, down])
        matrix = np.column_stack([linear, centre - linear @ np.full(2, (SIZE - 1) / 2)])
        flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REFLECT
        expected = cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=flags, borderMode=border)
        view = (zoom, stretch, angle, right, down, mirror)
        seen = augmentation.whole(image[None], SIZE, view)[0]
        # OpenCV rounds places to 1/32 of a pixel, which tells where there is noise.
        assert np.abs(seen.astype(int) - expected).mean() < 2


def test_views_are_the_whole_and_nine_others(images):
    expected = np.stack([cv2.resize(image, (SIZE, SIZE)) for image in images[:5]])
    views = np.stack(list(augmentation.ten_views(images[:5], SIZE))).astype(int)
    assert np.abs(views[0] - expected).max() <= 1
    assert np.abs(views[1, :, :, ::-1] - expected).max() <= 1
    flat = views.reshape(10, -1)
    assert all(np.abs(flat[i] - flat[j]).mean() > 1 for i in range(10) for j in range(i))


def test_colours_change_within_their_limits_as_the_seed_says():
    grey = tf.fill([600, SIDE, SIDE, 3], tf.constant(128, tf.uint8))
    out, again, other = (
        example10.augment(grey, 0, seed, tf.constant(0, tf.int64))[0].numpy() for seed in (0, 0, 1)
    )
    assert np.array_equal(out, again)
    assert not np.array_equal(out, other)
    colours = out[:, 0, 0].astype(int)
    assert np.array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))
    limit = round(128 * example10.COLOUR)
    assert colours.min() in range(128 - limit - 1, 128 - limit + 3)
    assert colours.max() in range(128 + limit - 3, 128 + limit + 1)
    assert np.ptp(colours, axis=1).mean() > 10  # of red, green and blue each by itself


def test_network_and_steps_are_those_of_example_14(images, monkeypatch):
    """Which are checked against Keras."""
    monkeypatch.setattr(tf, "reduce_max", tf.reduce_mean)  # of all places: the only difference
    small = images[:, :32, :32]
    whitening = airbench.whitening_kernels(small, 2, 1, 12)
    ours = airbench.Training(airbench.Network(*whitening, (4, 8, 8), 10, tf.float32, 3))
    theirs = example14.Training(example14.Network(small, (4, 8, 8), tf.float32, 3))
    for step in range(3):
        batch = small[20 * step : 20 * step + 20], np.arange(20, dtype=np.int32) % 10
        one, other = (training.step(*batch, tf.constant(0.01)) for training in (ours, theirs))
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)
    variables = zip(ours.variables, theirs.variables, strict=True)
    assert all(np.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in variables)


# --- A run, stopped in the middle and continued ---------------------------------------------------

TINY = "--train-images 200 --batch-size 25 --epochs 3"
STEPS = 8  # in an epoch


def tiny(sample_dir, models_dir, *more):
    return arguments(sample_dir, models_dir, *TINY.split(), *more)


@pytest.fixture(scope="module")
def undisturbed(sample_dir, tmp_path_factory):
    """Return the results' folder, the metrics, and the final state."""
    models_dir = tmp_path_factory.mktemp("models")
    metrics = without_pictures(example10.main, *tiny(sample_dir, models_dir))
    return models_dir / example10.NAME, metrics, final_state(models_dir)


def test_results(undisturbed):
    folder, metrics, _ = undisturbed
    assert metrics["test_accuracy"] > 0.8  # chance is 0.5
    assert metrics["left_out"] == 4
    assert len(metrics["images_per_second_by_way"]) == 6
    assert min(metrics["images_per_second_by_way"].values()) > 0
    names = [path.name for path in (folder / "shards").iterdir()]  # nothing is left lying about
    assert len(names) == 4 + 1 + 4 and all(name.endswith(".tfrecord") for name in names)


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    undisturbed, sample_dir, tmp_path, capsys
):
    """By Ctrl-C in the second epoch, and then by a kill in the third."""
    arguments = tiny(sample_dir, tmp_path)
    check_ctrl_c(STEPS + 3, example10.main, capsys, *arguments)
    check_stopped(start_to_be_killed(example10, "in step", STEPS, *arguments, before=SMALLER))
    tf.random.set_seed(0)  # whatever another example has left behind
    continued = without_pictures(example10.main, *arguments)
    assert final_state(tmp_path) == undisturbed[2]
    assert continued["test_accuracy"] == undisturbed[1]["test_accuracy"]


def test_stopped_while_shards_are_made(photographs, sample_dir, tmp_path, capsys, monkeypatch):
    """By Ctrl-C in the second of four, and then by a kill."""
    calls = itertools.count(1)

    def shrink(jpeg, shrink=example10.shrink):  # called by several threads
        if next(calls) == 80:
            os.kill(os.getpid(), signal.SIGINT)
        return shrink(jpeg)

    monkeypatch.setattr(example10, "shrink", shrink)
    assert status(example10.main, capsys, *tiny(sample_dir, tmp_path)) == (130, ["interrupted"])
    folder, whole = tmp_path / example10.NAME / "shards", "*[0-9a-f].tfrecord"  # not those in .part
    assert len(list(folder.glob(whole))) == 1
    slow = f"""
import sys, time; sys.path.insert(0, {str(ROOT)!r})
{SMALLER}
e.shrink = lambda jpeg, shrink=e.shrink: time.sleep(0.01) or shrink(jpeg)
e.cli.run(e.main)
"""
    process = start("-c", slow, *tiny(sample_dir, tmp_path))
    stop_when(process, lambda: len(list(folder.glob(whole))) >= 2, signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob(whole)}
    assert 2 <= len(kept) < 4
    shards = example10.make_shards(photographs, "train", photographs.train[:200], folder)
    assert len(list(records(shards))) == 200
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # none was made twice
    assert set(map(str, kept)) <= set(shards)


def test_a_full_disk_while_shards_are_made(sample_dir, tmp_path, capsys, monkeypatch):
    def writer(path):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", writer)
    error = error_of(example10.main, capsys, *tiny(sample_dir, tmp_path))
    assert "No space left on device" in error
    assert str(tmp_path) in error
