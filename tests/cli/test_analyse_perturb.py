import pytest
from support.commands import refused
from support.side_loss_spec import SPEC
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("perturb"), {"spec": "encapkeras/1", **SPEC, "train": {"epochs": 1}})


def test_a_picture_for_each_class(run, capsys):
    assert main(["analyse", str(run), "--perturb"]) == 0
    folder = run / "analysis" / "perturbed"
    assert capsys.readouterr().out.endswith(f"10 pictures written to {folder}\n")
    assert sorted(file.name for file in folder.iterdir()) == [f"reconstruction_{n}_{n}.png" for n in range(10)]
    assert "reconstruction_0_0.png' exists already" in refused(capsys, "analyse", run, "--perturb")


def test_what_does_not_go_together(run, tmp_path, capsys):
    assert "--perturb takes one image of each class" in refused(capsys, "analyse", run, "--perturb", "--images", 3)
    plain = trained(tmp_path, tiny_spec(epochs=1))
    capsys.readouterr()
    assert refused(capsys, "analyse", plain, "--perturb").startswith("network 'tiny' has no decoder")
