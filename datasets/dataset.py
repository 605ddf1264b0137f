"""What every data set is loaded as."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Dataset:
    """Images and labels in three fixed parts.

    Train on the training images, make choices by the validation images, and use the test images
    once, at the end.

    Attributes:
        name: what the data is called wherever it shows, such as "CIFAR-10".
        train_images: (N, H, W, C) np.uint8, 0 to 255.
        train_labels: (N,) np.int32, indices into `class_names`.
        validation_images: (N, H, W, C) np.uint8.
        validation_labels: (N,) np.int32.
        test_images: (N, H, W, C) np.uint8.
        test_labels: (N,) np.int32.
        class_names: one name for each label.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
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
        images, labels = training
        cut = len(images) - validation
        parts = images[:cut], labels[:cut], images[cut:], labels[cut:]
        return cls(name, *parts, *test, class_names)

    def summary(self, train_images: int) -> str:
        """Describe the data set in one line, of which so many training images are used."""
        return (
            f"{self.name}: {train_images:,} training, {len(self.validation_images):,} validation "
            f"and {len(self.test_images):,} test images, "
            f"{self.train_images.shape[1:]} {self.train_images.dtype}"
        )
