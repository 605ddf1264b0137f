"""What every data set is loaded as."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Dataset:
    """Images and labels in three fixed parts.

    Train on the training images, make choices by the validation images, and use the test images
    once, at the end.
    """

    name: str  # what the data is called wherever it shows, such as "CIFAR-10"
    train_images: np.ndarray  # np.uint8 (N, H, W, C), 0 to 255
    train_labels: np.ndarray  # np.int32 (N,), indices into class_names
    validation_images: np.ndarray
    validation_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def split(
        cls,
        name: str,
        training: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        validation: int,
        class_names: tuple[str, ...],
    ) -> "Dataset":
        """Hold back the last `validation` of the training images and labels."""
        (images, labels), cut = training, len(training[0]) - validation
        held_back = images[cut:], labels[cut:]
        return cls(name, images[:cut], labels[:cut], *held_back, *test, class_names)

    def summary(self, train_images: int) -> str:
        """Describe the data set in one line, of which so many training images are used."""
        return (
            f"{self.name}: {train_images:,} training, {len(self.validation_images):,} validation "
            f"and {len(self.test_images):,} test images, "
            f"{self.train_images.shape[1:]} {self.train_images.dtype}"
        )
