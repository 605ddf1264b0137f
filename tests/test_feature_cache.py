"""Checks models/feature_cache.py: nothing is computed twice or taken for what it is not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from models import WeightsError, feature_cache

TESTS = Path(__file__).resolve().parent
SOURCE = {"weights_sha256": "ab12", "arithmetic": "float32"}


def exact_features(images):
    """What stands for a network: differs from pixel to pixel and from image to image."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat @ np.random.default_rng(0).normal(size=(flat.shape[1], 12)).astype(np.float32)


@pytest.fixture
def images():
    """uint8 (350, 4, 4, 3): three shards of 100, and one of 50."""
    return np.random.default_rng(1).integers(0, 256, (350, 4, 4, 3), np.uint8)


def cached(folder, images, source=SOURCE, extract=exact_features):
    """Return the features, and how many images were computed for them."""
    computed = []

    def counting(part):
        computed.append(len(part))
        return extract(part)

    features = feature_cache.cached_features(folder, source, counting, images, 30, "features")
    assert len(features) == len(images)
    features = features[:]
    assert features.dtype == np.float16
    return features, sum(computed)


def shards(folder):
    return sorted(folder.glob("*/*.npy"))


def test_what_is_there_is_not_computed_again(tmp_path, images):
    expected = exact_features(images).astype(np.float16)
    first, computed = cached(tmp_path, images[:200])
    assert np.array_equal(first, expected[:200])
    assert computed == 200
    assert cached(tmp_path, images[:200])[1] == 0
    whole, computed = cached(tmp_path, images)
    assert np.array_equal(whole, expected)
    assert computed == 150


def test_rows_by_their_numbers(tmp_path, images):
    """Of features with several axes, and of images that are no array."""
    names = [f"{number}.jpg" for number in range(310)]

    def extract(part):
        return exact_features(images[[int(name[:-4]) for name in part]]).reshape(-1, 3, 4)

    def features_of(names):
        return feature_cache.cached_features(
            *(tmp_path, SOURCE, extract, names, 30, "features"),
            identify=lambda part: repr(part).encode(),
        )

    features = features_of(names)
    expected = exact_features(images).astype(np.float16).reshape(-1, 3, 4)
    rows = np.array([309, 0, 99, 100, 250, 250])
    assert np.array_equal(features[rows], expected[rows])
    assert np.array_equal(features[95:205], expected[95:205])
    assert np.array_equal(features[-2:], expected[308:310])
    with pytest.raises(IndexError):
        features[np.array([310])]
    names[203] = "7.jpg"
    assert np.array_equal(features_of(names)[203:204], expected[7:8])
    assert len(shards(tmp_path)) == 5


def test_one_changed_pixel_is_another_image(tmp_path, images):
    cached(tmp_path, images)
    changed = images.copy()
    changed[142, 3, 2, 1] ^= 1
    features, computed = cached(tmp_path, changed)
    assert computed == 100  # its shard, no other
    assert np.array_equal(features, exact_features(changed).astype(np.float16))
    assert cached(tmp_path, images)[1] == 0  # the old ones are still there
    assert cached(tmp_path, images[::-1])[1] == 350


@pytest.mark.parametrize(
    "other", [SOURCE | {"weights_sha256": "ab13"}, SOURCE | {"version": 2}, {}]
)
def test_another_source_never_meets_old_features(tmp_path, images, other):
    before, _ = cached(tmp_path, images)
    features, _ = cached(tmp_path, images, other, lambda part: exact_features(part) + 1)
    assert np.array_equal(features, (exact_features(images) + 1).astype(np.float16))
    assert np.array_equal(cached(tmp_path, images)[0], before)
    assert len(list(tmp_path.glob("*/source.json"))) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:50],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        lambda content: b"\x80\x04garbage" * 50,
        lambda content: content.replace(b", 12)", b", 10)"),
    ],
    ids=["empty", "in its head", "last byte", "zeros", "like a pickle", "fewer columns"],
)
def test_damaged_shard_is_computed_again(tmp_path, images, damage):
    first, _ = cached(tmp_path, images)
    shard = shards(tmp_path)[0]
    shard.write_bytes(damage(shard.read_bytes()))
    second, computed = cached(tmp_path, images)
    assert computed in (50, 100)
    assert np.array_equal(second, first)


def test_any_damage_to_the_head_of_a_shard(tmp_path, images):
    first, _ = cached(tmp_path, images[:50])
    (shard,) = shards(tmp_path)
    content = shard.read_bytes()
    rng = np.random.default_rng(2)
    for position in rng.integers(0, 118, 60):  # up to the spaces that fill it up
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        shard.write_bytes(damaged)
        assert np.array_equal(cached(tmp_path, images[:50])[0], first)


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_features_that_float16_cannot_hold(tmp_path, images, value):
    def extract(part):
        features = exact_features(part)
        features[-1, -1] = value
        return features

    with pytest.raises(WeightsError, match="not finite, or too large for float16"):
        cached(tmp_path, images, extract=extract)
    assert not shards(tmp_path)  # nothing wrong is kept


PROGRAM = f"""
import sys, time
from pathlib import Path
sys.path[:0] = {[str(TESTS.parent), str(TESTS)]!r}
import numpy as np
import test_feature_cache as test

def extract(images):
    time.sleep(float(sys.argv[2]))
    return test.exact_features(images)

images = np.random.default_rng(1).integers(0, 256, (350, 4, 4, 3), np.uint8)
np.save(Path(sys.argv[1]) / sys.argv[3], test.cached(Path(sys.argv[1]), images, extract=extract)[0])
"""


def start(*arguments):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)])


def test_killed_run_goes_on_at_the_next_missing_shard(tmp_path, images):
    process = start(tmp_path, 0.2, "killed")
    while len(shards(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert 2 <= len(kept) < 4
    features, computed = cached(tmp_path, images)
    assert computed == 350 - 100 * len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert np.array_equal(features, exact_features(images).astype(np.float16))


def test_two_processes_at_once(tmp_path, images):
    processes = [start(tmp_path, 0.05, name) for name in ("a", "b")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    expected = exact_features(images).astype(np.float16)
    for name in ("a", "b"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected)
    assert cached(tmp_path, images)[1] == 0
    assert not list(tmp_path.glob("*/*.part"))
