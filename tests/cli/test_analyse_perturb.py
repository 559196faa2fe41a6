import numpy as np
import pytest
from support.commands import refused
from support.dataset_files import random_images, write_npz
from support.side_loss_spec import SPEC
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras.cli.main import main

CLASSES = ("cat", "dog/wolf")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perturb")
    images = {f"{part}_images": random_images(8, 8, 8, 3) for part in ("train", "test")}
    labels = {f"{part}_labels": np.arange(8) % 2 for part in ("train", "test")}
    file = write_npz(folder / "images.npz", **images, **labels, class_names=np.array(CLASSES))
    data = {"dataset": "npz", "path": str(file), "validation": 0, "batch_size": 8}
    return trained(folder, {"spec": "encapkeras/1", **SPEC, "data": data, "train": {"epochs": 1}})


def test_a_picture_for_each_class(run, capsys):
    assert main(["analyse", str(run), "--perturb"]) == 0
    folder = run / "analysis" / "perturbed"
    assert capsys.readouterr().out.endswith(f"2 pictures written to {folder}\n")
    pictures = sorted(file.name for file in folder.iterdir())
    assert pictures == ["reconstruction_0_cat.png", "reconstruction_1_dog_wolf.png"]
    assert "reconstruction_0_cat.png' already exists" in refused(capsys, "analyse", run, "--perturb")


def test_what_does_not_go_together(run, tmp_path, capsys):
    assert "--perturb uses one image of each class" in refused(capsys, "analyse", run, "--perturb", "--images", 3)
    plain = trained(tmp_path, tiny_spec(epochs=1))
    capsys.readouterr()
    assert refused(capsys, "analyse", plain, "--perturb").startswith("network 'tiny' has no decoder")
