"""Example 16: segmentation, every pixel of a microscope image, and every nucleus.

You will learn how a network answers for each pixel: the U-Net, which looks at an image
from afar and from near; why a lopsided balance of classes misleads cross-entropy, and
what Dice changes; how pixels become objects that can be counted; how both are scored.

    python examples/example16_segmentation_nuclei.py                # downloads once
    python examples/example16_segmentation_nuclei.py --data sample  # offline, drawings
    python examples/example16_segmentation_nuclei.py --image PATH   # of any size

The U-Net is O. Ronneberger, P. Fischer and T. Brox's (2015,
https://arxiv.org/abs/1505.04597); a class for the borders between nuclei was part of
most entries to the 2018 Data Science Bowl, from which the images and the score are.
Before this one: example 15, detection. After it: example 17, similarity.
docs/results.md has the measured results.
"""

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
from examples.helpers.run import Run
from models.convolution import Convolution
from models.training import count_parameters, one_cycle

NAME = Path(__file__).stem
EPOCHS, STEPS, BATCH_SIZE = 10, 60, 12  # steps in an epoch; crops in a step
LEARNING_RATE, WARM_UP = 4e-3, 0.1  # Adam's, at the peak; share of steps until then
CROP = 256  # pixels of height and width
CHANNELS = (32, 48, 64, 96)  # from near to far: each sees half of the pixels
BORDER = 2  # pixels at a nucleus' edge that count as border
SMALLEST = 12  # pixels; what is smaller is no nucleus
BACKGROUND, INSIDE, EDGE = range(3)

# %% Data
# 664 images, each with a mask for every nucleus (datasets/nuclei.py): two kinds of
# microscope, five sizes, nuclei from 20 to 2,000 pixels. What the network learns are
# three classes of pixels: background, nucleus, and *border*, the outermost two pixels
# of a nucleus. Without it, nuclei that touch would be one.


def classes_of(instances: np.ndarray) -> np.ndarray:
    """Turn numbers of nuclei, uint16 (H, W), into classes of pixels, uint8 (H, W)."""
    square = np.ones((2 * BORDER + 1,) * 2, np.uint8)
    near_other = cv2.dilate(instances, square) != cv2.erode(instances, square)
    return np.where(instances > 0, np.where(near_other, EDGE, INSIDE), BACKGROUND)


def normalise(image: np.ndarray) -> np.ndarray:
    """Bring an image to mean 0 and variance 1: float32, since some are all but black."""
    image = image.astype(np.float32)
    return (image - image.mean()) / (image.std() + 1)
