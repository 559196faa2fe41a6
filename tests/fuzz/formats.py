"""The kinds of files that are read: genuine ones, changes of their structure, and how they are read."""

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from fuzz.mutations import (
    DEEP,
    HOSTILE,
    changed_array,
    changed_bytes,
    changed_directory,
    changed_field,
    changed_members,
    changed_tree,
    chunks_of_png,
    deep,
    members,
    zipped,
)
from support import dataset_files

Mutant = tuple[bytes, bool]  # and whether what it holds must be read as before, or be refused
Change = Callable[[random.Random, bytes], Mutant]


@dataclass
class Format:
    """One kind of file.

    Args:
        files: Genuine files, relative to the folder, each of which may be changed; others may lie beside them.
        read: Reads the file with that name through the public interface; returns what was read, to be compared.
        structured: Changes of what a file holds.
        guarded: Those of the files whose checksums let no change of bytes pass as other content.
    """

    files: Sequence[str]
    read: Callable[[Path], Any]
    structured: Sequence[Change]
    guarded: Collection[str] = ()


def mutant(form: Format, chance: random.Random, file: str, data: bytes) -> Mutant:
    """A changed file: half of them by its bytes, half by its structure."""
    if chance.random() < 0.5:
        try:
            return chance.choice(form.structured)(chance, data)
        except Exception:  # noqa: S110  # what cannot be written
            pass
    return changed_bytes(chance, data), file in form.guarded


def digest(value: Any) -> Any:
    """What can be compared, small."""
    if isinstance(value, dict):
        return {str(key): digest(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [digest(entry) for entry in value]
    if hasattr(value, "detach"):
        if value.layout.__str__() != "torch.strided" or value.is_quantized or value.is_nested or value.is_meta:
            return str(value.layout), str(value.dtype)
        value = value.detach().resolve_conj().resolve_neg()
        value = (
            value.float().numpy()
            if str(value.dtype) in ("torch.bfloat16",) or "8" in str(value.dtype)
            else value.numpy()
        )
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, hashlib.sha1(np.ascontiguousarray(value)).hexdigest()  # noqa: S324
    return repr(value)


def _arrays(name: str, **settings: Any) -> Callable[[Path], Any]:
    """Reads a data set with everything in it."""

    def read(path: Path) -> Any:
        from encapkeras.data import DATASETS

        place = {"path": str(path)} if name == "npz" else {"root": str(path.parent)}
        reader = DATASETS[name].target(**place, **settings)
        return digest([repr(reader.describe()), list(vars(reader.read()).values())])

    return read


# --- arrays ---


def _npz(folder: Path) -> Format:
    names = np.array(["cat", "dog", "owl"])
    dataset_files.write_npz(folder / "a.npz", class_names=names)
    floats = {
        f"{part}_images": np.random.default_rng(0).random((6, 3, 3, 1)).astype("f4") for part in ("train", "test")
    }
    labels = {f"{part}_labels": np.arange(6, dtype=np.int16) % 3 for part in ("train", "test")}
    np.savez_compressed(folder / "b.npz", **floats, **labels)

    def header(chance: random.Random, data: bytes) -> Mutant:
        content = members(data)
        name = chance.choice(list(content))
        length = int.from_bytes(content[name][8:10], "little")
        change = chance.choice((changed_bytes, lambda c, d: changed_field(c, d, 0, len(d)), _header_words))
        content[name] = change(chance, content[name][: 10 + length]) + content[name][10 + length :]
        return zipped(content), False

    def array(chance: random.Random, data: bytes) -> Mutant:
        with np.load(io.BytesIO(data)) as file:
            arrays = {name: file[name] for name in file.files}
        name = chance.choice(list(arrays))
        arrays[name] = changed_array(chance, arrays[name])
        written = io.BytesIO()
        np.savez(written, **arrays)
        return written.getvalue(), False

    return Format(("a.npz", "b.npz"), _arrays("npz"), (header, array, _directory, _members), guarded=("a.npz", "b.npz"))


def _header_words(chance: random.Random, header: bytes) -> bytes:
    """Another value in the map of words in front of an array, of the length that it says."""
    words = header[10:].decode("latin1")
    new = chance.choice(
        ("(10**12,)", "(-1,)", "('a',)", "()", "(1,)*300", "'|O'", "'<U9'", "'V100'", "[('a','<i4')]", "None")
    )
    old = chance.choice(("'<i8'", "'|u1'", "'<f4'", "'<i2'", "False", "(12,)", "(6,)", "(12, 6, 5)", "{", "'shape'"))
    words = words.replace(old, new)
    return header[:8] + struct.pack("<H", len(words) % 2**16) + words.encode("latin1")


def _directory(chance: random.Random, data: bytes) -> Mutant:
    return changed_directory(chance, data), True


def _members(chance: random.Random, data: bytes) -> Mutant:
    return changed_members(chance, members(data)), False


def _idx(folder: Path) -> Format:
    dataset_files.write_idx_files(folder)

    def inner(chance: random.Random, data: bytes) -> Mutant:
        content = gzip.decompress(data)
        content = changed_field(chance, content, 0, 16) if chance.random() < 0.7 else changed_bytes(chance, content)
        return gzip.compress(content, 1), False

    names = sorted(path.name for path in folder.glob("*.gz"))
    return Format(names, _arrays("mnist"), (inner,), guarded=names)


def _cifar(classes: int) -> Callable[[Path], Format]:
    def make(folder: Path) -> Format:
        dataset_files.write_cifar_files(folder, classes=classes, per_file=6 if classes == 10 else 100)
        changed = "test_batch" if classes == 10 else "test"
        if classes == 100:
            images, labels = dataset_files.random_images(3, 32, 32, 3), [1, 2, 3]
            content = {"data": dataset_files.as_cifar_rows(images), "fine_labels": labels}
            (folder / "test").write_bytes(dataset_files.python2_pickle(content))
        return Format((changed,), _arrays(f"cifar{classes}"), (_pickled, _pickle_code))

    return make


def _pickled(chance: random.Random, data: bytes) -> Mutant:
    content = pickle.loads(data, encoding="latin1")  # noqa: S301
    content = changed_tree(chance, content, lambda c, v: changed_array(c, v) if isinstance(v, np.ndarray) else None)
    return pickle.dumps(content, chance.choice((0, 2, 3, 4, 5))), False


def _pickle_code(chance: random.Random, data: bytes) -> Mutant:
    """One instruction put in, or another program."""
    deepest = b"]" * 50_000 + b"a" * 49_999
    program = chance.choice(
        (b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02cbuiltins\neval\nU\x011\x85R.", deepest + b".", b"(" * 10**5 + b".")
    )
    if chance.random() < 0.1:
        return program, False
    at = chance.randrange(2, len(data))
    codes = b"0123()]}tlduseabRco.NJKMILFVXTUB\x80\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x94\x95\x96"
    return data[:at] + bytes([chance.choice(codes)]) + data[at + chance.randrange(2) :], False


def _svhn(folder: Path) -> Format:
    import scipy.io

    dataset_files.write_svhn_files(folder, train=10, test=3)

    def array(chance: random.Random, data: bytes) -> Mutant:
        content = {name: scipy.io.loadmat(io.BytesIO(data))[name] for name in ("X", "y")}
        name = chance.choice(list(content))
        if chance.random() < 0.3:
            content[chance.choice(("x", "Y", "z"))] = content.pop(name)
        else:
            content[name] = changed_array(chance, content[name])
            if content[name].dtype.kind == "M":
                content[name] = np.array([1, "a"], object)
        written = io.BytesIO()
        scipy.io.savemat(written, content, do_compression=chance.random() < 0.5)
        return written.getvalue(), False

    def inner(chance: random.Random, data: bytes) -> Mutant:
        """Fields of the elements inside of the compressed ones."""
        at, written = 128, bytearray(data[:128])
        while at + 8 <= len(data):
            kind, length = struct.unpack("<II", data[at : at + 8])
            content = zlib.decompress(data[at + 8 : at + 8 + length])
            if chance.random() < 0.7:
                content = changed_field(chance, content, 0, 64)
            packed = zlib.compress(content, 1)
            written += struct.pack("<II", kind, len(packed)) + packed
            at += 8 + length
        return bytes(written), False

    return Format(("test_32x32.mat",), _arrays("svhn"), (array, inner, _header_field))


def _norb(folder: Path) -> Format:
    dataset_files.write_norb_files(folder, count=5)
    names = sorted(path.name for path in folder.glob("*testing*") if "info" not in path.name)
    return Format(names, _arrays("small_norb"), (_header_field,))


def _header_field(chance: random.Random, data: bytes) -> Mutant:
    return changed_field(chance, data, 0, chance.choice((24, 64, 200))), False


# --- images ---

_IMAGES: dict[str, Sequence[tuple[str, dict[str, Any]]]] = {
    "png": (("RGB", {}), ("L", {}), ("RGBA", {}), ("I;16", {}), ("1", {})),
    "jpg": (("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})),
    "bmp": (("RGB", {}), ("L", {}), ("1", {})),
    "gif": (("L", {}), ("RGB", {})),
    "webp": (("RGB", {}), ("RGBA", {"lossless": True})),
    "tiff": (
        *(("RGB", {}), ("L", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"})),
        *(("RGB", {"compression": "tiff_adobe_deflate"}), ("1", {"compression": "group4"}), ("I;16", {})),
    ),
    "ppm": (("RGB", {}), ("L", {}), ("1", {})),
}


def _image(ending: str) -> Callable[[Path], Format]:
    def make(folder: Path) -> Format:
        from PIL import Image

        names = []
        for number, (mode, options) in enumerate(_IMAGES[ending]):
            names.append(f"{number}.{ending}")
            pixels = dataset_files.random_images(1, 14, 11, len(Image.new(mode, (1, 1)).getbands()))[0].squeeze()
            image = (
                Image.fromarray(pixels.astype("<u2") * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
            )
            if ending in ("jpg", "webp"):
                exif = Image.Exif()
                exif[0x0112] = 6
                options = {**options, "exif": exif}
            image.save(folder / names[-1], **options)
        changes: tuple[Change, ...] = (_header_field, _png_chunk) if ending == "png" else (_header_field,)
        return Format(names, read, changes, guarded=names if ending == "png" else ())

    def read(path: Path) -> Any:
        from encapkeras.data import read_image

        return digest([read_image(path, channels) for channels in (1, 3)])

    return make


def _png_chunk(chance: random.Random, data: bytes) -> Mutant:
    """A chunk with other content, moved, doubled or removed; its checksum is right."""
    chunks = chunks_of_png(data)
    at = chance.randrange(len(chunks))
    kind, content = chunks[at]
    change = chance.randrange(5)
    if change == 0:
        del chunks[at]
    elif change == 1:
        chunks.insert(chance.randrange(len(chunks)), chunks[at])
    elif change == 2:
        name = chance.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA", b"sRGB")
        )
        bomb = b"a\0\0" + zlib.compress(bytes(30_000_000), 9)
        chunks.insert(
            1, (name, chance.choice((b"", b"\0", chance.randbytes(20), bomb if chance.random() < 0.2 else b"x")))
        )
    elif change == 3 and kind == b"IDAT":
        chunks[at] = kind, zlib.compress(changed_bytes(chance, zlib.decompress(content)))
    else:
        chunks[at] = kind, changed_field(chance, content + b"\0", 0, len(content)) if content else b"x"
    made = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + b"".join(made), False


def _boxes(folder: Path) -> Format:
    dataset_files.write_voc_boxes(folder / "a.xml", (1, 2, 10, 12), (3, 3, 5, 6))

    def element(chance: random.Random, data: bytes) -> Mutant:
        root = ElementTree.fromstring(data)  # noqa: S314
        inner = chance.choice(list(root.iter()))
        texts = ("", "inf", "nan", "1e400", "9" * 5000, "-5", "0x1", "1.5", "\u0661", "\n7 ", "1_0", "7,5")
        kind = chance.randrange(4)
        if kind == 0:
            inner.tag = chance.choice(("object", "bndbox", "xmin", "x"))
        elif kind == 1:
            inner.append(copy.deepcopy(chance.choice(list(root.iter()))))
        elif kind == 2:
            inner.clear()
        else:
            chance.choice([e for e in root.iter() if not len(e)] or [root]).text = chance.choice(texts)
        return ElementTree.tostring(root), False

    def text(chance: random.Random, data: bytes) -> Mutant:
        levels = chance.choice((10, 5000, 100_000))
        entities = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 20 if n else b"x" * 50) for n in range(12))
        bomb = b"<!DOCTYPE a [" + entities + b"]><annotation>&a11;</annotation>"
        external = b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>'
        nested = b"<object>" * levels + b"</object>" * levels
        coded = data.decode().encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")))
        return chance.choice((bomb, external, nested, b"<annotation>" + nested + b"</annotation>", coded)), False

    def read(path: Path) -> Any:
        from encapkeras.data.object_boxes import read_box

        return digest(read_box(str(path)))

    return Format(("a.xml",), read, (element, element, element, text))


# --- networks and states ---


def _torch_files(changed: Callable[[random.Random, Any], Any]) -> tuple[Change, ...]:
    import torch

    def content(chance: random.Random, data: bytes) -> Mutant:
        loaded = torch.load(io.BytesIO(data), weights_only=True)
        if isinstance(loaded, dict):
            loaded = dict(loaded)
        written, zip_file = io.BytesIO(), chance.random() < 0.8
        torch.save(
            _with_checksum(changed_tree(chance, loaded, changed)), written, _use_new_zipfile_serialization=zip_file
        )
        return written.getvalue(), False

    def records(chance: random.Random, data: bytes) -> Mutant:
        """The pickled part, or the numbers of a tensor."""
        inside = members(data)
        name = chance.choice([name for name in inside if name.endswith("data.pkl")] * 3 + list(inside))
        change = chance.choice((changed_bytes, lambda c, d: _pickle_code(c, d + b"..")[0]))
        inside[name] = change(chance, inside[name])
        return zipped(inside), False

    return (content, content, records, _directory, _members)


def _with_checksum(content: Any) -> Any:
    """A changed state with a right checksum."""
    if not isinstance(content, dict) or "checksum" not in content:
        return content
    from encapkeras.training.run.resume_state import checksum

    rest = {name: value for name, value in content.items() if name != "checksum"}
    return {**rest, "checksum": checksum(rest)}


def _tensor(chance: random.Random, value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return torch.ones(3)
    with_nan = value.float().clone()
    with_nan.reshape(-1)[:1] = chance.choice((float("nan"), float("inf"), -1e30))
    return chance.choice(
        (
            value.to(
                chance.choice((torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.int64))
            ),
            value.reshape(-1),
            value[..., None],
            value.reshape(-1)[:1],
            torch.ones(()).expand(2**15, 2**15),
            with_nan,
            value.to_sparse() if value.dim() else value,
            torch.nn.Parameter(value.float()),
            value.float().T if value.dim() == 2 else value,
            torch.empty((3, 4), device="meta"),
            torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        )
    )


def _checkpoint(folder: Path) -> Format:
    import torch

    from encapkeras.interop import load_original_state_dict, original_state_dict, read_checkpoint

    model = _small_model()
    weights = original_state_dict(model)
    torch.save(weights, folder / "a.pth")
    torch.save({"epoch": 1, "state_dict": weights, "note": "x"}, folder / "b.pth")
    torch.save(
        {f"module.{name}": value for name, value in weights.items()},
        folder / "c.pth",
        _use_new_zipfile_serialization=False,
    )
    changes = _torch_files(_tensor)

    def structured(chance: random.Random, data: bytes) -> Mutant:
        old = not data.startswith(b"PK")
        return changes[0](chance, data) if old else chance.choice(changes)(chance, data)

    def read(path: Path) -> Any:
        load_original_state_dict(model, read_checkpoint(path))
        return digest([weight.value for weight in model.weights])

    return Format(("a.pth", "b.pth", "c.pth"), read, (structured,), guarded=("a.pth", "b.pth"))


def _weights(ending: str) -> Callable[[Path], Format]:
    """Weights of Keras 2: named arrays, or a file with the names that Keras gave."""

    def make(folder: Path) -> Format:
        import h5py
        import keras

        from encapkeras import build_model
        from encapkeras.interop import load_original_state_dict, original_state_dict, read_checkpoint

        keras.utils.set_random_seed(0)
        primary = {
            "layer": "primary_capsules",
            "inputs": "bn1",
            "types": 2,
            "dim": 2,
            "kernel_size": 3,
            "depthwise": True,
        }
        nodes = {
            "conv1": {"layer": "keras.Conv2D", "inputs": "image", "filters": 4, "kernel_size": 3},
            "bn1": {"layer": "keras.BatchNormalization", "inputs": "conv1"},
            "primary": primary,
            "caps": {"layer": "self_attention_capsules", "inputs": "primary", "capsules": 3, "dim": 2},
        }
        model = build_model({"model": {"inputs": {"image": [7, 7, 1]}, "nodes": nodes, "outputs": {"out": "caps"}}})
        arrays = {name: tensor.numpy() for name, tensor in original_state_dict(model).items()}
        kinds = {
            "conv1": "conv2d_3",
            "bn1": "batch_normalization",
            "primary": "primary_caps/conv2d_4",
            "caps": "fc_caps",
        }
        if ending == "npz":
            np.savez(folder / "a.npz", **arrays)
        else:
            with h5py.File(folder / "a.h5", "w") as file:
                for name, array in arrays.items():
                    layer, leaf = name.split(".")
                    file[f"model/{kinds[layer]}/{leaf}:0"] = array

        def changed(chance: random.Random, data: bytes) -> Mutant:
            if ending == "h5":
                return _changed_hdf5(chance, data), False
            with np.load(io.BytesIO(data)) as file:
                found = {name: file[name] for name in file.files}
            name = chance.choice(list(found))
            found[name] = changed_array(chance, found[name])
            written = io.BytesIO()
            np.savez(written, **found)
            return written.getvalue(), False

        def read(path: Path) -> Any:
            load_original_state_dict(model, read_checkpoint(path))
            return digest([weight.value for weight in model.weights])

        changes = (changed, _directory, _members) if ending == "npz" else (changed,)
        return Format((f"a.{ending}",), read, changes, guarded=("a.npz",) if ending == "npz" else ())

    return make


def _small_model() -> Any:
    import keras

    from encapkeras import build_model, load_spec

    keras.utils.set_random_seed(0)
    small = load_spec(
        "capsnet_dynamic_digits", ["vars.filters=2", "vars.types=1", "data.image_size=24", "data.augment=null"]
    )
    return build_model(small)


def _keras(folder: Path) -> Format:
    import keras

    from encapkeras import load_model

    _small_model().save(folder / "a.keras")
    plain = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="second")]
    )
    plain.save(folder / "b.keras")

    def json_part(chance: random.Random, data: bytes) -> Mutant:
        content = members(data)
        name = chance.choice(("config.json", "config.json", "config.json", "metadata.json"))
        content[name] = _changed_json(chance, content[name])
        return zipped(content), False

    def weights(chance: random.Random, data: bytes) -> Mutant:
        content = members(data)
        change = _changed_hdf5 if chance.random() < 0.7 else changed_bytes
        content["model.weights.h5"] = change(chance, content["model.weights.h5"])
        return zipped(content), False

    def read(path: Path) -> Any:
        keras.utils.clear_session(free_memory=False)
        model = load_model(path)
        return digest([[(weight.path, weight.value) for weight in model.weights], model.get_config()])

    return Format(
        ("a.keras", "b.keras"),
        read,
        (json_part, json_part, weights, _directory, _members),
        guarded=("a.keras", "b.keras"),
    )


def _changed_json(chance: random.Random, data: bytes) -> bytes:
    text = json.dumps(changed_tree(chance, json.loads(data)))
    if chance.random() < 0.05:
        return text.encode(chance.choice(("utf-16", "utf-8-sig", "utf-32")))
    return deep(chance, text).encode()


def _changed_hdf5(chance: random.Random, data: bytes) -> bytes:
    import h5py

    written = io.BytesIO(data)
    with h5py.File(written, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None)
        name = chance.choice(names)
        array, kind = file[name][()], chance.randrange(6)
        if kind == 0:
            file[f"{name}9"] = array
            return written.getvalue()
        del file[name]
        if kind == 1:
            changed = changed_array(chance, array)
            if changed.dtype.kind not in "MU":
                file[name] = changed
        elif kind == 2:
            file[name] = chance.choice((h5py.SoftLink("/nowhere"), h5py.SoftLink("/"), h5py.SoftLink(f"/{name}")))
        elif kind == 3:
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        elif kind == 4:
            file.create_dataset(name, array.shape, array.dtype, external=[("/etc/passwd", 0, array.nbytes)])
        else:
            file.create_group(name)
    return written.getvalue()


def _state(folder: Path) -> Format:
    import keras

    from encapkeras import callbacks
    from encapkeras.training.run.resume_state import StateFiles

    x = np.random.default_rng(0).random((8, 3)).astype("f4")
    y = x.sum(axis=1, keepdims=True)
    file = "epoch_2_step_2.pt"

    def fit(path: Path, epochs: int) -> Any:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        also = [callbacks.MetricsFile(path / "metrics.csv"), keras.callbacks.EarlyStopping("loss", patience=9)]
        resume = callbacks.Resume(path / "resume", also=also, minutes=0, keep=100)
        try:
            model.fit(x, y, batch_size=2, epochs=epochs, shuffle=False, callbacks=[resume, *also], verbose=0)
        finally:
            resume.close()
        return digest([weight.value for weight in model.weights]), (path / "metrics.csv").read_bytes()

    fit(folder, 2)
    (folder / file).write_bytes((folder / "resume" / file).read_bytes())
    rows = (folder / "metrics.csv").read_bytes()

    def read(path: Path) -> Any:
        here = path.parent / "here"
        shutil.rmtree(here, ignore_errors=True)
        (here / "resume").mkdir(parents=True)
        os.link(path, here / "resume" / file)
        (here / "metrics.csv").write_bytes(rows)
        StateFiles(here / "resume").newest()  # what is refused at once needs no model
        return fit(here, 2)

    def leaf(chance: random.Random, value: Any) -> Any:
        return _tensor(chance, value) if hasattr(value, "detach") else chance.choice(HOSTILE)

    return Format((file,), read, _torch_files(leaf), guarded=(file,))


# --- texts ---


def _run_json(folder: Path) -> Format:
    from support.tiny_spec import tiny_spec

    from encapkeras import load_spec
    from encapkeras.cli.arguments.trained_run import TrainedRun
    from encapkeras.comparison.folder import check_none_is_lost, reusable
    from encapkeras.comparison.plan import make_plan
    from encapkeras.training import train
    from encapkeras.training.run.known_runs import described_run
    from encapkeras.training.run.run_folder import RunFolder
    from encapkeras.training.run.start import describe_environment, trained_on

    seed = 0
    plan = make_plan([load_spec(tiny_spec())], [seed], [], folder)
    [planned] = plan.trainings
    run, spec = planned.folder, planned.spec
    run.create(spec.resolved, describe_environment("cpu", seed), False, 0)
    layers = {"path": "/nowhere/mine.py", "copy": "plugins/mine.py", "registers": {"layer": ["squash"], "loss": []}}
    run.environment.write_text(json.dumps({**run.read_environment(), "plugins": [layers]}))
    run.last.write_bytes(b"x")
    run.best.write_bytes(b"x")
    numbers = ("test_accuracy", "validation_accuracy", "parameters", "images_per_second", "seconds", "peak_memory_mib")
    run.results.write_text(json.dumps({name: 0.5 for name in (*numbers, "test_loss", "best_epoch")}))
    (folder / "comparison.json").write_text(json.dumps({"runs": [{"network": planned.network.label, "seed": seed}]}))
    files = [file.relative_to(folder).as_posix() for file in (run.environment, run.results)] + ["comparison.json"]

    def read(path: Path) -> Any:
        if path.name == "comparison.json":
            return digest(check_none_is_lost(plan.trainings, path.parent))
        folder = RunFolder(path.parent)
        opened = TrainedRun.open(path.parent)
        found = [trained_on(folder), opened.checkpoint.name, folder.read_environment(), described_run(folder).state]
        with contextlib.redirect_stdout(io.StringIO()):
            found.append(train(spec, path.parent, resume=True))
        again = [planned._replace(folder=folder)]
        return digest([*found, reusable(again)[0][1] if reusable(again) else None])

    def tree(chance: random.Random, data: bytes) -> Mutant:
        return _changed_json(chance, data), False

    return Format(files, read, (tree,))


def _csv(folder: Path) -> Format:
    from encapkeras.analysis import Measurement, RoutingAnalysis, read_csv, write_csv

    one = [Measurement("digits", "em", n, "activation", "target", None, 0.5, 16) for n in range(1, 4)]
    write_csv(folder / "routing.csv", [RoutingAnalysis("best", "test", 16, tuple(one))])

    def cell(chance: random.Random, data: bytes) -> Mutant:
        rows = [line.split(",") for line in data.decode().splitlines()]
        row = chance.choice(rows)
        values = ("", "nan", "-1", "9" * 5000, '"', "\0", "x" * 200_000, "1e999", "\r", "a,b", "1.5")
        row[chance.randrange(len(row))] = chance.choice(values)
        return "\n".join(",".join(row) for row in rows).encode(), False

    return Format(("routing.csv",), lambda path: digest(read_csv(path)), (cell,))


def _spec(ending: str) -> Callable[[Path], Format]:
    def make(folder: Path) -> Format:
        import yaml
        from support.routing_spec import routing_spec
        from support.tiny_spec import tiny_spec

        from encapkeras import check_spec

        def write(tree: Any) -> str:
            if ending == "json":
                return json.dumps(tree)
            return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)

        for name, spec in {"a": tiny_spec(), "b": routing_spec()}.items():
            (folder / f"{name}.{ending}").write_text(write(spec))

        def read(path: Path) -> Any:
            return digest(check_spec(path))

        def tree(chance: random.Random, data: bytes) -> Mutant:
            changed = changed_tree(chance, yaml.safe_load(data))
            return deep(chance, write(changed).replace(f"'{DEEP}'", f'"{DEEP}"')).encode(errors="replace"), False

        return Format((f"a.{ending}", f"b.{ending}"), read, (tree,))

    return make


FORMATS: dict[str, Callable[[Path], Format]] = {
    "npz": _npz,
    "idx": _idx,
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "svhn": _svhn,
    "norb": _norb,
    **{ending: _image(ending) for ending in _IMAGES},
    "boxes": _boxes,
    "run_json": _run_json,
    "csv": _csv,
    "yaml": _spec("yaml"),
    "json": _spec("json"),
    "keras": _keras,
    "pth": _checkpoint,
    "weights_npz": _weights("npz"),
    "weights_h5": _weights("h5"),
    "state": _state,
}


def warm() -> None:
    """Imports all that reading needs, before workers are forked."""
    import h5py  # noqa: F401
    import PIL.Image
    import scipy.io  # noqa: F401

    import encapkeras.comparison
    import encapkeras.interop
    import encapkeras.training  # noqa: F401

    PIL.Image.init()
