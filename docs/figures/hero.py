"""Draw the picture at the head of README.md: photographs as the blocks of VGG16 see them.

    python docs/figures/hero.py

writes docs/images/hero_vgg16.png. The thirteen convolutions of the published network are downloaded
where they are missing (59 MB, see datasets/pretrained.py; K. Simonyan, A. Zisserman 2014, Creative
Commons Attribution). The photographs come with scikit-learn (flower.jpg and china.jpg,
CC BY) and matplotlib (Grace Hopper, public domain).
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
    """Draw a row for each photograph and a column for each block."""
    downloads = drawing.ROOT / "datasets" / "downloads"
    weights = pretrained.find_vgg16("blocks", "full", downloads, lambda *_: Path())
    network = tf.keras.applications.VGG16(include_top=False, weights=str(weights))
    blocks = [f"block{number}_pool" for number in range(1, 6)]
    outputs = [network.get_layer(name).output for name in blocks]
    model = tf.keras.Model(network.input, outputs)
    images = photographs()
    features = model(tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32)))
    columns = [images, *(as_colours(block.numpy()) for block in features)]
    titles = ["photograph", *(f"after block {number}" for number in range(1, 6))]
    size = (2.2 * len(columns), 2.2 * HEIGHT / WIDTH * len(images) + 0.3)
    figure, axes = plt.subplots(len(images), len(columns), figsize=size)
    for column, pictures in enumerate(columns):
        axes[0, column].set_title(titles[column], fontsize=11)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(
                picture, interpolation="bilinear" if 0 < column < 4 else "nearest"
            )
            axes[row, column].axis("off")
    figure.subplots_adjust(wspace=0.03, hspace=0.03)
    drawing.save(figure, "hero_vgg16")


if __name__ == "__main__":
    drawing.run(main)
