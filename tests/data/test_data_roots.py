"""Where files are looked for, in which order, and what happens if they are nowhere."""

import sys
from pathlib import Path

import pytest
import torchvision
from support.dataset_files import write_cifar_files, write_idx_files, write_svhn_files

from encapkeras.cli.terminal.streams import safe_output
from encapkeras.data import DATASETS, DataSettings, load
from encapkeras.data.files import data_roots
from encapkeras.errors import DataError

DEBIAN = "/usr/share/datasets/fashion-mnist"


def train_count(name, **source):
    return len(DATASETS[name].target(**source).read().train_labels)


def error_of(name, **source):
    with pytest.raises(DataError) as caught:
        DATASETS[name].target(**source).read()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_roots_in_order(tmp_path, monkeypatch):
    for variable, folder in (("XDG_CACHE_HOME", "cache"), ("ENCAPKERAS_DATA", "env"), ("HOME", "home")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    write_svhn_files(tmp_path / "cache" / "encapkeras", train=30)
    assert train_count("svhn") == 30
    write_svhn_files(tmp_path / "env", train=40)
    assert train_count("svhn") == 40
    write_svhn_files(tmp_path / "home" / "mine", train=50)
    assert train_count("svhn", root="~/mine") == 50
    assert train_count("svhn", root=str(tmp_path / "empty")) == 40


def test_the_cache_folder_follows_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_roots(None) == [tmp_path / ".cache" / "encapkeras"]


def test_a_missing_data_set_names_files_folders_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ENCAPKERAS_DATA", str(tmp_path / "env"))
    message = error_of("cifar10", root=str(tmp_path / "root"))
    assert "'cifar10' are not on this machine" in message
    assert "no network in tests" in message
    assert "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch" in message
    for folder in data_roots(str(tmp_path / "root")):
        assert f"  {folder}\n" in message
        assert f"  {folder / 'cifar-10-batches-py'}\n" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in message
    assert "data.root" in message
    assert "ENCAPKERAS_DATA" in message


@pytest.mark.parametrize("name", ["mnist", "cifar100", "svhn"])
def test_every_download_goes_through_torchvision(tmp_path, name):
    message = error_of(name, root=str(tmp_path))
    assert "no network in tests" in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_some_of_the_files_is_pointed_out(tmp_path):
    write_idx_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert f"  {tmp_path}  (some of the files are missing)" in error_of("mnist", root=str(tmp_path))


def test_the_folder_of_the_debian_package_is_looked_in():
    assert DEBIAN in DATASETS["fashion_mnist"].target.files.system_folders


def fake_download(monkeypatch, name, write):
    class Fake:
        def __init__(self, root, download, split="train"):
            assert download
            write(root)

    monkeypatch.setattr(torchvision.datasets, name, Fake)


@pytest.mark.parametrize("first", ["root", "environment", "cache"])
def test_what_is_missing_is_downloaded_into_the_first_root(tmp_path, monkeypatch, first):
    root, environment = tmp_path / "root", tmp_path / "env"
    monkeypatch.setenv("ENCAPKERAS_DATA", str(environment) if first != "cache" else "")
    source = {"root": str(root)} if first == "root" else {}
    expected = {"root": root, "environment": environment, "cache": data_roots(None)[0]}[first]

    def write(folder):
        write_cifar_files(Path(folder) / "cifar-10-batches-py", classes=10, per_file=10)

    fake_download(monkeypatch, "CIFAR10", write)
    assert train_count("cifar10", **source) == 50
    assert [path.name for path in expected.iterdir()] == ["cifar-10-batches-py"]
    fake_download(monkeypatch, "CIFAR10", lambda folder: pytest.fail("downloaded twice"))
    assert train_count("cifar10", **source) == 50


def test_the_progress_of_a_download_is_drawn_over_and_names_are_escaped(tmp_path, monkeypatch, capsys):
    def write(folder):
        print("\r 50%", end="", file=sys.stderr)
        print("\r100%", file=sys.stderr)
        write_cifar_files(Path(folder) / "cifar-10-batches-py", classes=10, per_file=10)

    fake_download(monkeypatch, "CIFAR10", write)
    with safe_output():
        assert train_count("cifar10", root=str(tmp_path)) == 50
        print("a\rname", file=sys.stderr)
    assert capsys.readouterr().err == "\r 50%\r100%\na\\rname\n"


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def write(folder):
        (Path(folder) / "train_32x32.mat").write_bytes(b"half of i")
        raise KeyboardInterrupt

    fake_download(monkeypatch, "SVHN", write)
    with pytest.raises(KeyboardInterrupt):
        train_count("svhn", root=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_lacks_files(tmp_path, monkeypatch):
    fake_download(monkeypatch, "CIFAR100", lambda folder: None)
    assert "the download did not include all files" in error_of("cifar100", root=str(tmp_path))


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("hello")
    assert "ExistsError" in error_of("cifar100", root=str(tmp_path / "file"))


@pytest.mark.slow
def test_the_real_fashion_mnist_of_the_debian_package():
    if not Path(DEBIAN).is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    splits = load(DataSettings(dataset="fashion_mnist"), seed=0)
    assert (splits.train.num_images, splits.validation.num_images, splits.test.num_images) == (54000, 6000, 10000)
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    mean = splits.test.images_as_uint8().float().mean() / 255
    assert abs(mean - 0.2868) < 0.01  # the published mean of the pixels is 0.2860 for training, 0.2868 for test images
