"""Checks models/feature_cache.py: that no feature is computed twice, that none is taken for what it
is not, and that kills, damaged files and a second process at the same time do no harm.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models import WeightsError, feature_cache  # noqa: E402

SIZE = 12  # features of an image
DESCRIPTION = {"weights_sha256": "ab12", "arithmetic": "float32"}


def exact_features(images):
    """What stands for a network: differs from pixel to pixel and from image to image."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat @ np.random.default_rng(0).normal(size=(flat.shape[1], SIZE)).astype(np.float32)


class Extract:
    """Counts the images it is given."""

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return exact_features(images)


@pytest.fixture
def images():
    """uint8 (350, 4, 4, 3): three shards of 100, and one of 50."""
    return np.random.default_rng(1).integers(0, 256, (350, 4, 4, 3), np.uint8)


def cached(folder, images, count, description=DESCRIPTION, extract=None):
    """Return the features, and how many images were computed for them."""
    extract = extract or Extract()
    features = feature_cache.cached_features(
        folder, description, extract, images, count, (SIZE,), 30, "features"
    )
    assert len(features) == count
    features = features[:]
    assert features.shape == (count, SIZE)
    assert features.dtype == np.float16
    return features, extract.images


def shards(folder):
    return sorted(folder.glob("*/*.npy"))


def test_features_are_those_of_the_network(tmp_path, images):
    features, computed = cached(tmp_path, images, 350)
    assert computed == 350
    assert np.array_equal(features, exact_features(images).astype(np.float16))


def test_second_call_computes_nothing(tmp_path, images):
    first, _ = cached(tmp_path, images, 350)
    second, computed = cached(tmp_path, images, 350)
    assert computed == 0
    assert np.array_equal(second, first)


def test_larger_count_computes_only_what_is_new(tmp_path, images):
    first, computed = cached(tmp_path, images, 120)
    assert computed == 200  # whole shards, for later
    assert np.array_equal(first, exact_features(images[:120]).astype(np.float16))
    assert cached(tmp_path, images, 200)[1] == 0
    second, computed = cached(tmp_path, images, 350)
    assert computed == 150
    assert np.array_equal(second, exact_features(images).astype(np.float16))
    assert np.array_equal(cached(tmp_path, images, 7)[0], second[:7])


def test_rows_by_their_numbers(tmp_path, images):
    """Of features with several axes, and of images that are no array."""
    names = [f"{number}.jpg" for number in range(350)]

    def extract(part):
        chosen = images[[int(name[:-4]) for name in part]]
        return exact_features(chosen).reshape(-1, 3, 4)

    arguments = tmp_path, DESCRIPTION, extract, names, 310, (3, 4), 30, "features"
    features = feature_cache.cached_features(*arguments, identify=lambda part: repr(part).encode())
    expected = exact_features(images).astype(np.float16).reshape(-1, 3, 4)
    rows = np.array([309, 0, 99, 100, 250, 250])
    assert np.array_equal(features[rows], expected[rows])
    assert np.array_equal(features[95:205], expected[95:205])
    assert np.array_equal(features[-2:], expected[308:310])
    with pytest.raises(IndexError):
        features[np.array([310])]  # in a shard on disk, but not asked for
    assert len(shards(tmp_path)) == 4
    names[203] = "7.jpg"
    changed = feature_cache.cached_features(*arguments, identify=lambda part: repr(part).encode())
    assert np.array_equal(changed[203:204], expected[7:8])
    assert len(shards(tmp_path)) == 5


def test_one_changed_pixel_is_another_image(tmp_path, images):
    cached(tmp_path, images, 350)
    changed = images.copy()
    changed[142, 3, 2, 1] ^= 1
    features, computed = cached(tmp_path, changed, 350)
    assert computed == 100  # its shard, no other
    assert np.array_equal(features, exact_features(changed).astype(np.float16))
    assert cached(tmp_path, images, 350)[1] == 0  # the old ones are still there


def test_images_in_another_order(tmp_path, images):
    cached(tmp_path, images, 350)
    features, _ = cached(tmp_path, images[::-1], 350)
    assert np.array_equal(features, exact_features(images[::-1]).astype(np.float16))


@pytest.mark.parametrize(
    "other",
    [
        {**DESCRIPTION, "weights_sha256": "ab13"},
        {**DESCRIPTION, "arithmetic": "bfloat16"},
        {**DESCRIPTION, "mean_rgb": [1, 2, 3]},
        {},
    ],
)
def test_another_description_never_meets_old_features(tmp_path, images, other):
    before, _ = cached(tmp_path, images, 350)

    def extract(part):
        return exact_features(part) + 1

    features = feature_cache.cached_features(
        tmp_path, other, extract, images, 350, (SIZE,), 30, "features"
    )[:]
    assert np.array_equal(features, (exact_features(images) + 1).astype(np.float16))
    assert np.array_equal(cached(tmp_path, images, 350)[0], before)
    assert len(list(tmp_path.iterdir())) == 2


def test_description_lies_beside_the_features(tmp_path, images):
    cached(tmp_path, images, 100)
    (file,) = tmp_path.glob("*/description.json")
    assert '"weights_sha256": "ab12"' in file.read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:50],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        lambda content: b"\x80\x04garbage" * 50,
    ],
    ids=["empty", "in its head", "last byte", "zeros", "like a pickle"],
)
def test_damaged_shard_is_computed_again(tmp_path, images, damage):
    first, _ = cached(tmp_path, images, 350)
    shard = shards(tmp_path)[0]
    shard.write_bytes(damage(shard.read_bytes()))
    second, computed = cached(tmp_path, images, 350)
    assert computed in (50, 100)
    assert np.array_equal(second, first)
    assert cached(tmp_path, images, 350)[1] == 0


def test_any_damage_to_the_head_of_a_shard(tmp_path, images):
    first, _ = cached(tmp_path, images, 50)
    (shard,) = shards(tmp_path)
    content = shard.read_bytes()
    rng = np.random.default_rng(2)
    for position in rng.integers(0, 118, 60):  # up to the spaces that fill it up
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        shard.write_bytes(damaged)
        assert np.array_equal(cached(tmp_path, images, 50)[0], first)


@pytest.mark.parametrize(
    "array", [np.zeros((99, SIZE), np.float16), np.zeros((100, SIZE), np.float32), np.zeros(3)]
)
def test_shard_of_another_form_is_computed_again(tmp_path, images, array):
    first, _ = cached(tmp_path, images, 100)
    np.save(shards(tmp_path)[0], array)
    second, computed = cached(tmp_path, images, 100)
    assert computed == 100
    assert np.array_equal(second, first)


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_features_that_float16_cannot_hold(tmp_path, images, value):
    def extract(part):
        features = exact_features(part)
        features[-1, -1] = value
        return features

    with pytest.raises(
        WeightsError, match="features are not finite, or too large for float16"
    ) as e:
        cached(tmp_path, images, 100, extract=extract)
    assert "\n" not in str(e.value)
    assert not shards(tmp_path)  # nothing wrong is kept
    assert np.isfinite(cached(tmp_path, images, 100)[0]).all()


# --- Processes ------------------------------------------------------------------------------------

PROGRAM = f"""
import sys, time
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import numpy as np
import test_feature_cache as test

def extract(images):
    time.sleep(float(sys.argv[2]))
    return test.exact_features(images)

images = np.random.default_rng(1).integers(0, 256, (350, 4, 4, 3), np.uint8)
features = test.feature_cache.cached_features(
    Path(sys.argv[1]), test.DESCRIPTION, extract, images, 350, (test.SIZE,), 30, "features")[:]
np.save(Path(sys.argv[1]) / f"result_{{sys.argv[3]}}", features)
"""


def start(folder, seconds_a_batch, name):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(seconds_a_batch), name],
        stderr=subprocess.DEVNULL,
    )


def test_killed_run_goes_on_at_the_next_missing_shard(tmp_path, images):
    process = start(tmp_path, 0.2, "killed")
    while len(shards(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert 2 <= len(kept) < 4

    features, computed = cached(tmp_path, images, 350)
    assert computed == 350 - 100 * len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert np.array_equal(features, exact_features(images).astype(np.float16))


def test_kill_while_a_shard_is_written(tmp_path, images, monkeypatch):
    """What is cut off in the middle of a write never bears a shard's name."""

    class KilledError(BaseException):
        pass

    def save_half(file, array, allow_pickle):
        file.write(b"\x93NUMPY\x01\x00")
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save_half)
        with pytest.raises(KilledError):
            cached(tmp_path, images, 350)
    assert not shards(tmp_path)
    features, computed = cached(tmp_path, images, 350)
    assert computed == 350
    assert np.array_equal(features, exact_features(images).astype(np.float16))


def test_two_processes_at_once(tmp_path, images):
    processes = [start(tmp_path, 0.05, name) for name in ("a", "b")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    expected = exact_features(images).astype(np.float16)
    for name in ("a", "b"):
        assert np.array_equal(np.load(tmp_path / f"result_{name}.npy"), expected)
    features, computed = cached(tmp_path, images, 350)
    assert computed == 0
    assert np.array_equal(features, expected)
    assert not list(tmp_path.glob("*/*.part"))
