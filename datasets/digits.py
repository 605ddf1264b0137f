"""Finding the digit in a picture, and giving it the form of MNIST's images."""

import cv2
import numpy as np

SIDE = 500  # pixels; larger pictures are shrunk. cv2.medianBlur spans half of it: <= 255
DARKEST_PAPER = 100  # of 255: what is darker counts as this, or noise would be taken for ink
MIN_CONTRAST = 0.08  # of the paper's lightness; what stands out less is noise
MIN_STROKE = 0.1  # of the digit's size: how wide a stroke is at least


def as_digit(picture: np.ndarray) -> np.ndarray:
    """Bring a picture of one digit to the form of MNIST's images.

    It may have any size, be in colour, light on dark, in shadow, noisy, the digit anywhere in it.

    Args:
        picture: np.uint8 (H, W, 3), RGB.

    Returns:
        np.uint8 (28, 28, 1), 0 for paper and 255 for ink.

    Raises:
        ValueError: the picture shows nothing.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    if scale < 1:
        width, height = (max(round(scale * length), 1) for length in grey.shape[::-1])
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    digit = _without_specks(_ink(grey))
    return like_mnist(255 * _thick_enough(digit))[..., None]


def _ink(grey: np.ndarray) -> np.ndarray:
    """Find what is drawn in a picture, np.uint8 (H, W): np.float32 (H, W), 0 to 1 for all ink."""
    side = max(grey.shape)
    # Strokes differ from what is around them more than paper does, even paper with a shadow on it;
    # the third power keeps whether they are lighter or darker. Light ones: turn the picture over.
    around = cv2.medianBlur(grey, side // 2 | 1)
    grey = grey.astype(np.float32)
    if np.sum((grey - around) ** 3) > 0:
        grey = 255 - grey
    # What would the paper look like with nothing on it? A closing (lightest value around each
    # pixel, then the darkest of those) fills whatever is narrower than a third of the picture with
    # the light beside it, and keeps the edges of shadows. In a shadow ink takes away the same share
    # of the light, so ink is the share that is missing, less what the noise of the paper makes.
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, np.ones((side // 3 | 1,) * 2, np.uint8))
    ink = (paper - grey) / np.maximum(paper, DARKEST_PAPER)
    ink -= np.percentile(ink, 25)
    if ink.max() < MIN_CONTRAST:
        raise ValueError("it is all one colour, or nearly so")
    full = np.percentile(ink[ink > ink.max() / 3], 90)  # the middle of a stroke
    return np.clip(ink / full, 0, 1)


def _without_specks(ink: np.ndarray) -> np.ndarray:
    """Keep what belongs to the digit, and its soft edges."""
    # What hangs together is one part. A digit's parts are of comparable size, other parts are
    # specks; and what touches the border is more likely a shadow or the table than a digit.
    count, parts = cv2.connectedComponents((ink > 1 / 3).astype(np.uint8))
    size = np.bincount(parts.ravel(), ink.ravel() ** 2, count)
    size[np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))] /= 10
    size[0] = 0  # the paper
    digit = (size[parts] > 0.1 * size.max()).astype(np.uint8)
    return np.where(cv2.dilate(digit, np.ones((3, 3), np.uint8)), ink, 0)


def _thick_enough(ink: np.ndarray) -> np.ndarray:
    """Thicken strokes of which nothing would be left in 20 x 20 pixels."""
    digit = (ink > 1 / 3).astype(np.uint8)
    size = max(np.ptp(np.flatnonzero(digit.any(axis=axis))) for axis in (0, 1))
    # From a pixel to the edge of its stroke it is a quarter of the stroke's width on average.
    distance = cv2.distanceTransform(digit, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    width = 4 * distance[digit > 0].mean() - 2
    missing = round(size * MIN_STROKE - width)
    if missing <= 0:
        return ink
    return cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (missing + 1,) * 2))


def like_mnist(ink: np.ndarray, contrast: float = 1.0) -> np.ndarray:
    """Place a digit as MNIST does: fitted into 20 x 20 pixels, centred by its mass in 28 x 28.

    Args:
        ink: float (H, W), 0 for paper and 255 for ink; some of it is above 0.
        contrast: a factor, by which some of the blur can be undone that enlarging brings.

    Returns:
        (28, 28) np.uint8.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    height, width = np.maximum(np.rint(scale * np.array(ink.shape)), 1).astype(int)
    # Averages over areas when it shrinks, for smooth edges; cubic curves when it grows.
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    ink = cv2.resize(ink, (width, height), interpolation=interpolation)
    ink = np.clip(128 + contrast * (ink - 128), 0, 255)
    top = round(14 - np.average(np.arange(height), weights=ink.sum(axis=1)))
    left = round(14 - np.average(np.arange(width), weights=ink.sum(axis=0)))
    # A blot with a long tail has its mass in a corner of its box: it must not leave the image.
    top, left = np.clip(top, 0, 28 - height), np.clip(left, 0, 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = np.rint(ink)
    return image
