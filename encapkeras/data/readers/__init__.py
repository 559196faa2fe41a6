"""One data set per file, which registers itself.

Begin with `digits`, the shortest. `idx`, `cifar` and `matlab` are formats that two data sets share; `class_folders`
lists the images of `image_folder` and `h_imagenet`, `csv_table` reads a file of `csv`. `mask_folder` and `shapes` have
a class for each pixel.
"""

from encapkeras.data.readers import (  # noqa: F401  # each registers its data set
    affnist,
    cifar10,
    cifar100,
    csv,
    digits,
    fashion_mnist,
    h_imagenet,
    image_folder,
    mask_folder,
    mnist,
    npz,
    patterns,
    shapes,
    small_norb,
    svhn,
)
