"""VGG16 as it was published, and the names of the thousand classes it knows.

The weights are the authors' own (https://www.robots.ox.ac.uk/~vgg/research/very_deep/), under the
Creative Commons Attribution License. TF-slim's archive of 28 August 2016 has all of them; Keras'
file has the thirteen convolutions alone, without the dense layers.
"""

import json
from collections.abc import Callable
from pathlib import Path

from datasets.download import DataError, RemoteFile, download
from datasets.drawings import OTHER_KINDS, drawn_objects
from datasets.files import extract

CHECKPOINT, ARCHIVE = "vgg_16.ckpt", "vgg_16_2016_08_28.tar.gz"
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


def find_vgg16(
    weights: str, data: str, data_dir: Path, make_sample: Callable[..., Path] = Path
) -> Path:
    """Return the file of weights that is asked for, downloaded first where it is missing.

    `weights` is "full", the published VGG16 (513 MB), or with sample data what `make_sample`, that
    is models.sample_vgg16.checkpoint, makes; "blocks", the published convolutions alone (59 MB; a
    file of that name is taken as it is: copies with other notes beside the same arrays go round);
    else the path of a file.

    Raises:
        DataError: it cannot be had.
    """
    if weights not in ("full", "blocks"):
        return Path(weights).expanduser()
    if weights == "full" and data == "sample":
        return make_sample(data_dir / "sample" / "vgg16", OTHER_KINDS, drawn_objects)
    path = data_dir / (VGG16_BLOCKS.path if weights == "blocks" else f"vgg16/{CHECKPOINT}")
    if path.is_file():
        return path
    if weights == "blocks":
        return download(VGG16_BLOCKS, data_dir)
    extract(download(VGG16_ARCHIVE, data_dir), path.parent, [CHECKPOINT], _MAX_BYTES)
    return path


def class_names(classes: int, data_dir: Path) -> tuple[str, ...]:
    """Name the classes of the sample VGG16, or the thousand of the published one, from a download.

    If they cannot be had, that is said, and they are called "class 0" and so on.
    """
    if classes == len(OTHER_KINDS):
        return OTHER_KINDS
    try:
        index = json.loads(download(IMAGENET_CLASS_INDEX, data_dir).read_text())
        return tuple(index[str(number)][1] for number in range(classes))
    except (DataError, OSError, ValueError, LookupError, TypeError) as error:
        print(f"   classes are shown as numbers, for their names cannot be had: {error}")
    return tuple(f"class {number}" for number in range(classes))
