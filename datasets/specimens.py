"""Drawings in place of blood and nuclei under the microscope, and of written characters.

They come as the files of the real data sets, by their names in the archives.
"""

import hashlib

import cv2
import numpy as np

SEED = 0
FRACTION_BITS = 4  # OpenCV takes coordinates as whole sixteenths of a pixel


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


# %% Blood cells, with boxes

BLOOD_PARTS = {"train": 80, "val": 16, "test": 24}
BLOOD_WIDTH, BLOOD_HEIGHT = 160, 120
BLOOD_CELLS = {  # how many there are at most, half the width in pixels, colour
    "WBC": (1, (19, 25), (120, 70, 150)),
    "RBC": (20, (11, 15), (205, 150, 150)),
    "Platelets": (3, (3, 5), (135, 90, 160)),
}


def drawn_blood() -> dict[str, bytes]:
    """Draw the files of BCCD's archive: cells of three kinds, which overlap."""
    rng = np.random.default_rng(SEED)
    top, files, number = "BCCD_Dataset-1.0/BCCD", {}, 0
    for part, count in BLOOD_PARTS.items():
        names = [f"BloodImage_{number + i:05d}" for i in range(count)]
        number += count
        files[f"{top}/ImageSets/Main/{part}.txt"] = "\n".join(names).encode()
        for name in names:
            image, boxes = _blood(rng)
            if name.endswith("7"):  # some boxes of the real ones have no area, either
                boxes += _object("RBC", 9, 9, 9, 9)
            size = f"<width>{BLOOD_WIDTH}</width><height>{BLOOD_HEIGHT}</height>"
            xml = f"<annotation><size>{size}</size>{boxes}\n</annotation>\n"
            files[f"{top}/Annotations/{name}.xml"] = xml.encode()
            jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            files[f"{top}/JPEGImages/{name}.jpg"] = jpeg.tobytes()
    return files


def _object(label: str, *edges: int) -> str:
    names = "xmin", "ymin", "xmax", "ymax"
    box = "".join(f"<{name}>{edge}</{name}>" for name, edge in zip(names, edges, strict=True))
    return f"\n  <object><name>{label}</name><bndbox>{box}</bndbox></object>"


def _blood(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draw cells and write down their boxes: np.uint8 (120, 160, 3), RGB; XML."""
    light = rng.uniform(0.85, 1.05)
    image = np.full((BLOOD_HEIGHT, BLOOD_WIDTH, 3), (225, 215, 215), np.float32)
    corner, objects = (BLOOD_WIDTH, BLOOD_HEIGHT), ""
    taken = np.zeros(image.shape[:2], np.float32)
    for label, (most, radii, colour) in BLOOD_CELLS.items():
        for _ in range(rng.integers(most // 3, most + 1)):
            axes = rng.uniform(*radii) * rng.uniform(0.85, 1.15, 2)
            centre, turn = rng.uniform((5, 5), np.subtract(corner, 5)), rng.uniform(0, 180)
            cell = np.zeros(image.shape[:2], np.float32)
            cv2.ellipse(cell, (centre.tolist(), (2 * axes).tolist(), turn), 1, -1, cv2.LINE_AA)
            if (cell * taken).sum() > 0.3 * cell.sum():
                continue  # hidden: nobody would find it
            taken = np.maximum(taken, cell)
            if label == "RBC":  # thinner in the middle
                cv2.ellipse(cell, (centre.tolist(), axes.tolist(), turn), 0.7, -1, cv2.LINE_AA)
            rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
            edges = columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1
            if np.subtract(edges[2:], edges[:2]).min() < 4:
                continue
            objects += _object(label, *edges)
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            shade = np.add(colour, rng.normal(0, 8, 3))
            image[part] += 0.8 * cell[part][..., None] * (shade - image[part])
    image = cv2.GaussianBlur(image * light + rng.normal(0, 10, image.shape), (0, 0), 0.7)
    return np.clip(image, 0, 255).astype(np.uint8), objects


# %% Nuclei, with masks

NUCLEI_IMAGES = 60
NUCLEI_SIZES = ((96, 96), (96, 128), (128, 160))  # height and width
NUCLEI_COLOURS = (  # of the ground and of the nuclei; two thirds shine on dark ground
    ((12, 12, 12), (120, 120, 120)),
    ((20, 20, 20), (70, 70, 70)),
    ((225, 225, 225), (110, 110, 110)),
    ((10, 10, 10), (180, 180, 180)),
    ((15, 15, 15), (60, 60, 60)),
    ((190, 170, 205), (90, 50, 150)),
)


def drawn_nuclei() -> dict[str, bytes]:
    """Draw the files of stage1_train.zip: an image, and a mask for each nucleus; many touch."""
    rng, files = np.random.default_rng(SEED), {}
    for number in range(NUCLEI_IMAGES):
        name = hashlib.sha256(f"{number}".encode()).hexdigest()
        height, width = NUCLEI_SIZES[rng.integers(len(NUCLEI_SIZES))]
        ground, colour = np.array(NUCLEI_COLOURS[number % len(NUCLEI_COLOURS)], np.float32)
        share, taken = np.zeros((height, width), np.float32), np.zeros((height, width), np.uint8)
        centre, radius = rng.uniform((0, 0), (width, height)), rng.uniform(6, 11)
        for each in range(rng.integers(8, 30)):
            axes = radius * rng.uniform(0.75, 1.3, 2)
            mask = np.zeros_like(taken)
            box = centre.tolist(), (2 * axes).tolist(), rng.uniform(0, 180)
            cv2.ellipse(mask, box, 255, -1)
            whole, mask = np.count_nonzero(mask), mask & ~taken
            if np.count_nonzero(mask) > max(0.75 * whole, 20):  # else it is hidden
                files[f"{name}/masks/{each:02d}.png"] = _png(mask)
                share[mask > 0] = rng.uniform(0.6, 1)
                taken |= mask
            # The next one lies beside this one, or anywhere.
            angle = rng.uniform(0, 2 * np.pi)
            beside = centre + 1.9 * radius * np.array([np.cos(angle), np.sin(angle)])
            centre = beside if rng.random() < 0.5 else rng.uniform((0, 0), (width, height))
        share = cv2.GaussianBlur(share, (0, 0), 1)[..., None]
        image = ground + share * (colour - ground) + rng.normal(0, 5, (height, width, 1))
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        files[f"{name}/images/{name}.png"] = _png(pixels[..., ::-1])
    return files


# %% Characters of alphabets that nobody uses

ALPHABETS, CHARACTERS = 5, 12  # to learn from
UNSEEN = 5  # alphabets of 20 characters, for 20 runs
PERSONS = 20


def drawn_characters() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Draw the files of images_background.zip and of all_runs.zip, by their names.

    A character is some curved strokes, which each drawing bends, turns, shifts and stretches anew:
    those of one person have no more in common than those of two.
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
    """Draw a character once, black on white, 105 x 105 pixels."""
    turn, slant = rng.normal(0, 0.12), rng.normal(0, 0.15)
    across, down = rng.uniform(26, 42, 2)  # half of its width and height, in pixels
    matrix = np.array([[np.cos(turn), np.sin(turn)], [slant - np.sin(turn), np.cos(turn)]])
    bent = strokes + rng.normal(0, 0.1, strokes.shape)
    points = (bent @ matrix) * (across, down) + 52 + rng.normal(0, 5, 2)
    t = np.linspace(0, 1, 30)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    curves = np.rint(weights @ points * 2**FRACTION_BITS).astype(np.int32)
    paper = np.full((105, 105), 255, np.uint8)
    cv2.polylines(paper, list(curves), False, 0, 3, shift=FRACTION_BITS)
    return _png(paper)
