"""Drawings in place of written characters, as the files of the real data sets."""

import cv2
import numpy as np

SEED = 0
FRACTION_BITS = 4  # OpenCV takes coordinates as whole sixteenths of a pixel


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


# %% Characters of alphabets that nobody uses

ALPHABETS, CHARACTERS = 5, 12  # to learn from
UNSEEN = 5  # alphabets of 20 characters, for 20 runs
PERSONS = 20


def drawn_characters() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Draw the files of images_background.zip and of all_runs.zip, by their names.

    A character is some curved strokes; each person's hand bends, turns, shifts and stretches them.
    """
    rng = np.random.default_rng(SEED)
    background, runs, number = {}, {}, 0
    for alphabet in range(1, ALPHABETS + 1):
        for character in range(1, CHARACTERS + 1):
            strokes, number = _strokes(rng), number + 1
            folder = f"images_background/Alphabet_{alphabet}/character{character:02d}"
            for person in range(1, PERSONS + 1):
                background[f"{folder}/{number:04d}_{person:02d}.png"] = _drawn(strokes, rng)
    unseen = [[_strokes(rng) for _ in range(20)] for _ in range(UNSEEN)]
    for run in range(1, 21):
        lines, characters = "", unseen[run % UNSEEN]
        for item, answer in enumerate(rng.permutation(20), 1):
            test = f"run{run:02d}/test/item{item:02d}.png"
            training = f"run{run:02d}/training/class{answer + 1:02d}.png"
            runs[test] = _drawn(characters[answer], rng)
            runs[training] = _drawn(characters[answer], rng)
            lines += f"{test} {training}\n"
        runs[f"run{run:02d}/class_labels.txt"] = lines.encode()
    return background, runs


def _strokes(rng: np.random.Generator) -> np.ndarray:
    """Make up a character: (strokes, 4, 2), each stroke a cubic Bézier curve within -1 to 1."""
    strokes = rng.uniform(-1, 1, (rng.integers(2, 5), 4, 2))
    strokes[1:, 0] = strokes[:-1, rng.integers(1, 4)]  # most characters hang together
    return strokes


def _drawn(strokes: np.ndarray, rng: np.random.Generator) -> bytes:
    """Draw a character by one person's hand, black on white, 105 x 105 pixels."""
    turn, slant = rng.normal(0, 0.12), rng.normal(0, 0.15)
    across, down = rng.uniform(28, 42, 2)  # half of its width and height, in pixels
    matrix = np.array([[np.cos(turn), np.sin(turn)], [slant - np.sin(turn), np.cos(turn)]])
    bent = strokes + rng.normal(0, 0.09, strokes.shape)
    points = (bent @ matrix) * (across, down) + 52 + rng.normal(0, 3, 2)
    t = np.linspace(0, 1, 30)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    curves = np.rint(weights @ points * 2**FRACTION_BITS).astype(np.int32)
    paper = np.full((105, 105), 255, np.uint8)
    cv2.polylines(paper, list(curves), False, 0, 3, shift=FRACTION_BITS)
    return _png(paper)
