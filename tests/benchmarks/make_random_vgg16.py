"""Write a full-size VGG16 checkpoint of random numbers, in the form of TF-slim's vgg_16.ckpt.

    python tests/benchmarks/make_random_vgg16.py models/random_vgg_16.ckpt

For measuring what does not depend on what the weights are.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models import vgg16, vgg16_files


def main(arguments: list[str]) -> None:
    """Write the checkpoint, 553 MB."""
    if len(arguments) != 1:
        sys.exit(__doc__)
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    vgg16_files.write_v1_checkpoint(path, vgg16.random_weights(vgg16.Config(), seed=1))
    print("wrote", path)


if __name__ == "__main__":
    main(sys.argv[1:])
