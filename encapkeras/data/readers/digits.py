"""The digits inside scikit-learn."""

from __future__ import annotations

import numpy as np

from encapkeras.data.registry import DatasetInfo, DatasetReader, ImageArrays, register_dataset

IMAGES = 1797
TEST_IMAGES = 360


@register_dataset("digits")
class Digits(DatasetReader):
    """1,797 handwritten digits of 8x8 grayscale pixels, part of scikit-learn: no download.

    scikit-learn has no test part, so 360 images are set aside for it: always the same ones, with the same
    share of each digit. The 8x8 images (17 gray levels) are enlarged smoothly to 32x32.
    """

    image_size = 32

    def describe(self) -> DatasetInfo:
        """8x8 grayscale images of ten digits."""
        return DatasetInfo(8, 8, 1, 10, tuple("0123456789"), IMAGES - TEST_IMAGES)

    def read(self) -> ImageArrays:
        """1,437 training and 360 test images."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        train_images, test_images, train_labels, test_labels = train_test_split(
            images, labels.astype(np.int64), test_size=TEST_IMAGES, stratify=labels, random_state=0
        )
        return ImageArrays(train_images, train_labels, test_images, test_labels)
