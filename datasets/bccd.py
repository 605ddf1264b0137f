"""BCCD: 364 photographs of blood under the microscope, with a box around each cell.

https://github.com/Shenggan/BCCD_Dataset, MIT licence: photographs and boxes of cosmicad and
akshaylamba, put into the layout of Pascal VOC by Shenggan. They have 640 x 480 pixels. 205 are for
training, 87 for validation and 72 for the test. Red cells lie close together, up to 27 in a
photograph; most have one white cell. Two boxes have no area, and are left out.
"""

import dataclasses
from pathlib import Path

from datasets import sample, voc
from datasets.download import RemoteFile, download
from datasets.voc import BoxedPhotographs

CLASS_NAMES = ("RBC", "WBC", "Platelets")

_ARCHIVE = RemoteFile(
    path="bccd/BCCD_Dataset-1.0.zip",
    urls=("https://github.com/Shenggan/BCCD_Dataset/archive/v1.0.zip",),
    size=7_875_205,
    sha256="97af5cc16d14d293fcb3c82a8f66e49b0339a8d0abd8e9508e0feeb4911caa1f",
)


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    photos: Path | None = None,
    validation: int = 87,
) -> BoxedPhotographs:
    """Find BCCD's photographs, or with "sample" drawn blood cells, which need no network.

    With `photos`, a folder or an archive, one's own with boxes of any classes: see `voc.load`.

    With "full" they are in data_dir/bccd: in the folder BCCD_Dataset-1.0, or its part BCCD, if it
    lies there; else in the archive, which is downloaded (8 MB) and need not be extracted.

    Of those for validation, all but the first `validation` are for training, as is done once
    choices have been made.

    Raises:
        DataError: a file is damaged or wrong, or cannot be fetched or read.
    """
    if photos:
        report = data_dir / "photos" / f"{photos.resolve().name}.report.json"
        return voc.load(photos, report, validation_count=validation)
    folder = data_dir / "bccd"
    extracted = [path for path in (folder / "BCCD_Dataset-1.0", folder / "BCCD") if path.is_dir()]
    if data == "sample":
        path = sample.make_bccd(data_dir) / "BCCD_Dataset-1.0.zip"
    else:
        path = extracted[0] if extracted else download(_ARCHIVE, data_dir)
    report = path.with_name(f"{path.name}.report.json")
    found = voc.load(path, report, CLASS_NAMES, validation)
    count = sum(map(len, (found.train, found.validation, found.test)))
    name = sample.BCCD_NAME if data == "sample" else f"{count:,} photographs of blood cells"
    return dataclasses.replace(found, name=name)
