"""Draw photographs as the blocks of VGG16 see them, for note 10.

    python docs/figures/hero.py

writes docs/images/hero_vgg16_*.svg. The thirteen convolutions of the published network are
downloaded where they are missing (59 MB, see datasets/pretrained.py; K. Simonyan, A. Zisserman
2014, Creative Commons Attribution). The photographs come with scikit-learn (flower.jpg and
china.jpg, CC BY) and matplotlib (Grace Hopper, public domain).
"""

from pathlib import Path

import drawing  # isort: skip  # before TensorFlow

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA

from datasets import pretrained

HEIGHT, WIDTH = 288, 384


def photographs() -> np.ndarray:
    """Return three photographs, uint8 (3, HEIGHT, WIDTH, 3)."""
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    images = [Image.fromarray(load_sample_image(name)) for name in ("flower.jpg", "china.jpg")]
    images.append(Image.open(hopper).convert("RGB"))
    centres = [(0.5, 0.5), (0.5, 0.6), (0.5, 0.15)]
    return np.stack(
        [
            ImageOps.fit(image, (WIDTH, HEIGHT), centering=centre)
            for image, centre in zip(images, centres, strict=True)
        ]
    )


def as_colours(features: np.ndarray) -> np.ndarray:
    """Bring the channels of features (N, H, W, C) to red, green and blue, float from 0 to 1.

    The colours are the three directions in which the features vary most, over all pictures.
    """
    rows = features.reshape(-1, features.shape[-1])
    colours = PCA(3, random_state=0).fit_transform(rows / (rows.std() + 1e-9))
    low, high = np.percentile(colours, [2, 98], axis=0)
    return np.clip((colours - low) / (high - low), 0, 1).reshape(*features.shape[:3], 3)


def main() -> None:
    """Draw a picture for each photograph: itself, and what each block makes of it."""
    downloads = drawing.ROOT / "datasets" / "downloads"
    weights = pretrained.find_vgg16("blocks", "full", downloads)
    network = tf.keras.applications.VGG16(include_top=False, weights=str(weights))
    blocks = [f"block{number}_pool" for number in range(1, 6)]
    outputs = [network.get_layer(name).output for name in blocks]
    model = tf.keras.Model(network.input, outputs)
    images = photographs()
    features = model(tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32)))
    columns = [images, *(as_colours(block.numpy()) for block in features)]
    titles = ["photograph", *(f"after block {number}" for number in range(1, 6))]
    for number in range(len(images)):
        figure, axes = plt.subplots(2, 3, figsize=(3.65, 2.3))
        for axis, title, pictures in zip(axes.flat, titles, columns, strict=True):
            size = pictures.shape[1]
            axis.imshow(pictures[number], interpolation="bilinear" if size > 20 else "none")
            axis.set_title(title)
            axis.axis("off")
        drawing.save(figure, f"hero_vgg16_{number + 1}")


if __name__ == "__main__":
    drawing.run(main)
