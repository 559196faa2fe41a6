"""Writes small data sets in the genuine formats of MNIST, affNIST, CIFAR, SVHN, small NORB, ImageNet and of folders."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from encapkeras.data import DataSettings, load


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, *shape), dtype=np.uint8)


def cycling_labels(count: int, classes: int = 10) -> np.ndarray:
    return np.arange(count) % classes


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_files(folder: Path, *, train: int = 20, test: int = 10, gzipped: bool = True) -> dict[str, np.ndarray]:
    """The four files of MNIST or Fashion-MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": random_images(train, 28, 28, seed=1),
        "train-labels-idx1-ubyte": cycling_labels(train),
        "t10k-images-idx3-ubyte": random_images(test, 28, 28, seed=2),
        "t10k-labels-idx1-ubyte": cycling_labels(test)[::-1],
    }
    for name, array in arrays.items():
        data = idx_bytes(array)
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return arrays


def python2_pickle(content: dict[str, object]) -> bytes:
    """A map as Python 2 pickled it, protocol 2: byte strings, and arrays of the NumPy of 2009.

    Only what CIFAR's files hold: strings, lists of small integers, and arrays of unsigned bytes.
    """
    return b"\x80\x02}" + b"".join(_old(key) + _old(value) + b"s" for key, value in content.items()) + b"."


def _old(value: object) -> bytes:
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_old, value)) + b"e"
    if not isinstance(value, np.ndarray):
        raise TypeError(value)
    data = value.astype(np.uint8).tobytes()
    make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(_old(size) for size in value.shape) + b"t"
    return make + b"(K\x01" + shape + dtype + b"I00\nT" + struct.pack("<i", len(data)) + data + b"tb"


def as_cifar_rows(images: np.ndarray) -> np.ndarray:
    """`(N, 32, 32, 3)` as rows of 3072: the red plane, then green, then blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def write_cifar_files(folder: Path, *, classes: int, per_file: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The files of CIFAR-10 (`classes=10`) or CIFAR-100 (`classes=100`)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    written = {}
    for seed, name in enumerate(names):
        images = random_images(per_file, 32, 32, 3, seed=seed)
        labels = (cycling_labels(per_file, classes) + seed) % classes
        written[name] = images, labels
        content: dict[str, object] = {"batch_label": name, "data": as_cifar_rows(images)}
        if classes == 10:
            content["labels"] = labels.tolist()
        else:
            content |= {"fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()}
        (folder / name).write_bytes(python2_pickle(content))
    return written


def write_svhn_files(
    folder: Path, *, train: int = 20, test: int = 10, extra: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The files of SVHN; labels go from 1 to 10, where 10 is the digit 0."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (name, count) in enumerate({"train": train, "test": test, "extra": extra}.items()):
        if not count:
            continue
        images, digits = random_images(count, 32, 32, 3, seed=seed), cycling_labels(count)
        stored = np.where(digits == 0, 10, digits).astype(np.uint8)[:, np.newaxis]
        scipy.io.savemat(
            folder / f"{name}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": stored}, do_compression=True
        )
        written[name] = images, digits
    return written


def affnist_structure(images: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """The fields of affNIST's structure, in their order: of each image a column; the last two are structures too."""
    count = len(images)
    return {
        "affine_transformation_matrix": np.ones((6, count)),
        "affine_transformation_matrix_inverse": np.ones((6, count)),
        "image": images.reshape(count, -1).T,
        "index": np.arange(1, count + 1, dtype=np.uint32)[np.newaxis],
        "label_one_of_n": np.eye(10, dtype=np.uint8)[:, labels],
        "label_int": labels.astype(np.uint8)[np.newaxis],
        "human_readable_transformation": {"rotation": np.zeros((1, count)), "shearing": np.zeros((1, count))},
        "original_id": np.array([["a", "b"]], object),
    }


def write_affnist_files(
    folder: Path, *, train: int = 20, test: int = 10, training_files: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The files of affNIST: centered training digits, or some files of transformed ones, and the transformed test."""
    batches = [f"transformed/training_and_validation_batches/{number}.mat" for number in range(1, training_files + 1)]
    names = ["transformed/test.mat", *(batches or ["just_centered/training_and_validation.mat"])]
    written = {}
    for seed, name in enumerate(names):
        count = train if seed else test
        images, labels = random_images(count, 40, 40, seed=seed), (cycling_labels(count) + seed) % 10
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(
            path, {"affNISTdata": affnist_structure(images, labels)}, do_compression=True, long_field_names=True
        )
        written[name] = images, labels
    return written


def write_npz(path: Path, **changes: object) -> Path:
    """A good .npz data set of three classes, with some arrays changed, or left out where None is given."""
    arrays: dict[str, object] = {
        "train_images": random_images(12, 6, 5, seed=1),
        "train_labels": cycling_labels(12, 3),
        "test_images": random_images(6, 6, 5, seed=2),
        "test_labels": cycling_labels(6, 3),
    }
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def write_image(path: Path, size: tuple[int, int] = (20, 16), *, mode: str = "RGB", seed: int = 0, **options) -> Path:
    """An image file of random pixels, width x height, in the format that the name's end says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = random_images(1, size[1], size[0], bands, seed=seed)[0]
    Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels, mode).save(path, **options)
    return path


def digit_files(folder: Path, count: int, name: str = "{:02}.png") -> Path:
    """The first test images of the digits as files of the networks' size and mode, named by their numbers."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(load(DataSettings(dataset="digits"), seed=0).test.images_as_uint8(count)):
        Image.fromarray(image[..., 0].numpy()).save(folder / name.format(number))
    return folder


def write_image_folder(
    root: Path, parts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog", "owl"), ending: str = ".png"
) -> Path:
    """`root/PART/CLASS/NUMBER.png`, so many images in each class of a part; a part called '' has no folder."""
    seed = 0
    for part, count in parts.items():
        for name in classes:
            for number in range(count):
                write_image(root / part / name / f"{number}{ending}", seed=(seed := seed + 1))
    return root


NORB_TOYS = {"training": (4, 6, 7, 8, 9), "testing": (0, 1, 2, 3, 5)}


def norb_bytes(array: np.ndarray) -> bytes:
    """The format of NORB: type, axes, at least three lengths, values; lowest byte first."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[str(array.dtype)]
    lengths = [*array.shape, *[1] * (3 - array.ndim)]
    return struct.pack(f"<{2 + len(lengths)}I", magic, array.ndim, *lengths) + array.tobytes()


def norb_info(count: int, toys: tuple[int, ...]) -> np.ndarray:
    """Toy, elevation, azimuth and lighting of pairs whose classes are `cycling_labels(count, 5)`."""
    numbers = np.arange(count)
    toy = np.array(toys)[numbers // 5 % len(toys)]
    return np.stack([toy, numbers % 9, 2 * (numbers % 18), numbers % 6], axis=1).astype(np.int32)


def write_norb_files(
    folder: Path, *, count: int = 10, gzipped: bool = False
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The files of small NORB: pairs of images, categories, and what else is known of each toy."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    parts = {"5x46789x9x18x6x2x96x96-training": 1, "5x01235x9x18x6x2x96x96-testing": 2}
    for part, seed in parts.items():
        pairs, labels = random_images(count, 2, 96, 96, seed=seed), cycling_labels(count, 5).astype(np.int32)
        info = norb_info(count, NORB_TOYS[part.rpartition("-")[2]])
        for content, array in {"dat": pairs, "cat": labels, "info": info}.items():
            name, data = f"smallnorb-{part}-{content}.mat", norb_bytes(array)
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))
            else:
                (folder / name).write_bytes(data)
        written[part.partition("-")[2]] = pairs, labels
    return written


def write_voc_boxes(path: Path, *boxes: tuple[int, int, int, int], name: str = "n00000001") -> Path:
    """An annotation as ImageNet has them: left, top, right and bottom of each object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for left, top, right, bottom in boxes
    )
    path.write_text(
        f"<annotation><folder>{name}</folder><filename>{path.stem}</filename><size><width>20</width>"
        f"<height>16</height><depth>3</depth></size>{objects}</annotation>"
    )
    return path
