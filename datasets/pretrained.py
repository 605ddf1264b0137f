"""VGG16 as it was published, and the names of the thousand classes it knows.

The archive is TF-slim's of 28 August 2016. The weights are the authors' own
(https://www.robots.ox.ac.uk/~vgg/research/very_deep/), under the Creative Commons Attribution
License.
"""

import json
from pathlib import Path

from datasets.download import DataError, RemoteFile, download
from datasets.drawings import OTHER_KINDS
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
    """Return data_dir/vgg16/vgg_16.ckpt, downloaded (513 MB) and extracted where it is missing.

    Raises:
        DataError: it cannot be had.
    """
    checkpoint = data_dir / "vgg16" / CHECKPOINT
    if not checkpoint.is_file():
        archive = download(VGG16_ARCHIVE, data_dir)
        extract(archive, archive.parent, [CHECKPOINT], _MAX_BYTES)
    return checkpoint


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
