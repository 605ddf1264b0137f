"""VGG16 as it was published, and the names of the thousand classes it knows.

The archive is TF-slim's of 28 August 2016. The weights are the authors' own
(https://www.robots.ox.ac.uk/~vgg/research/very_deep/), under the Creative Commons Attribution
License. Every function raises DataError for what cannot be had.
"""

import json
from pathlib import Path

from datasets.download import DataError, RemoteFile, download
from datasets.files import extract

ARCHIVE = "vgg_16_2016_08_28.tar.gz"
CHECKPOINT = "vgg_16.ckpt"
CLASS_INDEX = "imagenet_class_index.json"
_GOOGLE = "https://storage.googleapis.com/download.tensorflow.org"
_MAX_BYTES = 600_000_000  # the checkpoint has 553,436,134

VGG16_ARCHIVE = RemoteFile(
    path=f"vgg16/{ARCHIVE}",
    urls=(f"{_GOOGLE}/models/{ARCHIVE}", f"http://download.tensorflow.org/models/{ARCHIVE}"),
    size=513_324_920,
)
IMAGENET_CLASS_INDEX = RemoteFile(
    path=f"vgg16/{CLASS_INDEX}",
    urls=(f"{_GOOGLE}/data/{CLASS_INDEX}",),
    md5="c2c37ea517e94d9795004a39431a14cb",
)


def vgg16_checkpoint(data_dir: Path) -> Path:
    """Return data_dir/vgg16/vgg_16.ckpt, downloaded (513 MB) and extracted where it is missing."""
    checkpoint = data_dir / "vgg16" / CHECKPOINT
    if not checkpoint.is_file():
        extract_checkpoint(download(VGG16_ARCHIVE, data_dir))
    return checkpoint


def extract_checkpoint(archive: Path) -> Path:
    """Take vgg_16.ckpt out of the archive, put it beside the archive, and return its path."""
    return extract(archive, archive.parent, [CHECKPOINT], _MAX_BYTES) / CHECKPOINT


def class_names(folder: Path) -> tuple[str, ...]:
    """Read the names of the classes, in order, from folder/imagenet_class_index.json."""
    path = folder / CLASS_INDEX
    try:
        index = json.loads(path.read_text())
        return tuple(index[str(number)][1] for number in range(len(index)))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} does not hold the names of classes; move it away") from error


def imagenet_class_names(data_dir: Path) -> tuple[str, ...]:
    """Return the names of ImageNet's thousand classes, downloaded (35 kB) once."""
    return class_names(download(IMAGENET_CLASS_INDEX, data_dir).parent)
