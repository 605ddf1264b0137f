"""VGG16 as it was published, and the names of the thousand classes it knows.

The weights are the authors' own (https://www.robots.ox.ac.uk/~vgg/research/very_deep/), under the
Creative Commons Attribution License. TF-slim's archive of 28 August 2016 has all of them; Keras'
file has the thirteen convolutions alone, without the dense layers.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from datasets.download import DataError, RemoteFile, download
from datasets.drawings import OTHER_KINDS, drawn_objects
from datasets.files import extract

ARCHIVE = "vgg_16_2016_08_28.tar.gz"
CHECKPOINT = "vgg_16.ckpt"
CLASS_INDEX = "imagenet_class_index.json"
BLOCKS = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_GOOGLE = "https://storage.googleapis.com/download.tensorflow.org"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_MAX_BYTES = 600_000_000  # the checkpoint has 553,436,134

VGG16_ARCHIVE = RemoteFile(
    path=f"vgg16/{ARCHIVE}",
    urls=(f"{_GOOGLE}/models/{ARCHIVE}", f"http://download.tensorflow.org/models/{ARCHIVE}"),
    size=513_324_920,
)
VGG16_BLOCKS = RemoteFile(
    path=f"vgg16/{BLOCKS}",
    urls=(f"{_KERAS}/vgg16/{BLOCKS}",),
    size=58_889_256,
    md5="6d6bbae143d832006294945121d1f1fc",
)
IMAGENET_CLASS_INDEX = RemoteFile(
    path=f"vgg16/{CLASS_INDEX}",
    urls=(f"{_GOOGLE}/data/{CLASS_INDEX}",),
    md5="c2c37ea517e94d9795004a39431a14cb",
)


def vgg16_checkpoint(data_dir: Path) -> Path:
    """Return data_dir/vgg16/vgg_16.ckpt, downloaded (513 MB) and extracted where it is missing.

    Raises:
        DataError: it cannot be had.
    """
    checkpoint = data_dir / "vgg16" / CHECKPOINT
    if not checkpoint.is_file():
        archive = download(VGG16_ARCHIVE, data_dir)
        extract(archive, archive.parent, [CHECKPOINT], _MAX_BYTES)
    return checkpoint


def vgg16_blocks(data_dir: Path) -> Path:
    """Return data_dir/vgg16/vgg16_weights_..._notop.h5, downloaded (59 MB) where it is missing.

    A file that is there is not compared with the published one: the arrays in it are checked when
    they are read, and copies with other notes beside the same arrays go round.

    Raises:
        DataError: it cannot be had.
    """
    path = data_dir / VGG16_BLOCKS.path
    return path if os.path.isfile(path) else download(VGG16_BLOCKS, data_dir)


def find_vgg16(
    weights: str,
    data: str,
    data_dir: Path,
    make_sample: Callable[..., Path],
) -> Path:
    """Return the file of weights that is asked for.

    Args:
        weights: "full": the published VGG16, or with sample data the sample one; "blocks": the
            published convolutions alone; else the path of a file.
        data: "full" or "sample".
        data_dir: the data folder.
        make_sample: `models.sample_vgg16.checkpoint`.

    Raises:
        DataError: the file cannot be had.
    """
    if weights == "blocks":
        return vgg16_blocks(data_dir)
    if weights != "full":
        return Path(weights)
    if data == "sample":
        return make_sample(data_dir / "sample" / "vgg16", OTHER_KINDS, drawn_objects)
    return vgg16_checkpoint(data_dir)


def class_names(classes: int, data_dir: Path) -> tuple[str, ...]:
    """Name the classes of the sample VGG16, or the thousand of the published one.

    The latter are downloaded (35 kB) once. If they cannot be had, that is said, and they are
    called "class 0" and so on.
    """
    if classes == len(OTHER_KINDS):
        return OTHER_KINDS
    try:
        index = json.loads(download(IMAGENET_CLASS_INDEX, data_dir).read_text())
        return tuple(index[str(number)][1] for number in range(classes))
    except (DataError, OSError, ValueError, LookupError, TypeError) as error:
        print(f"   classes are shown as numbers, for their names cannot be had: {error}")
    return tuple(f"class {number}" for number in range(classes))
