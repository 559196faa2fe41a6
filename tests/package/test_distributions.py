"""What is uploaded is complete: the wheel and the source distribution work far from this folder."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import encapkeras

pytestmark = pytest.mark.slow

PROJECT = Path(encapkeras.__file__).parents[1]


def run(*command, **options):
    """What a command prints that must succeed; its complaints show in the test's report if it does not."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, env=clean, stdout=subprocess.PIPE, text=True, **options).stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, PROJECT)
    (wheel,) = folder.glob("*.whl")
    (source,) = folder.glob("*.tar.gz")
    return {"wheel": wheel, "source": source}


def test_the_wheel_holds_the_package_and_the_specs(distributions):
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = set(wheel.namelist())
    specs = {f"encapkeras/{path.relative_to(PROJECT)}" for path in (PROJECT / "specs").rglob("*.yaml")}
    assert {"encapkeras/specs/quickstart.yaml", "encapkeras/specs/base/encapnet.yaml"} <= specs
    assert specs | {"encapkeras/specs/spec.schema.json", "encapkeras/py.typed", "encapkeras/cli/main.py"} <= names
    zoo = {str(path.relative_to(PROJECT)) for path in (PROJECT / "encapkeras/zoo").rglob("*") if path.is_file()}
    assert "encapkeras/zoo/digits_dynamic/model.keras" in zoo
    assert zoo | {"encapkeras/LICENSE"} <= names
    assert not any(name.startswith(("tests/", "docs/")) for name in names)


def test_the_source_distribution_holds_tests_and_documentation(distributions):
    with tarfile.open(distributions["source"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py", "specs/quickstart.yaml", "docs/train.md"):
        assert name in names
    assert "tests/package/test_distributions.py" in names


@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_a_fresh_environment_trains_the_quickstart_elsewhere(kind, distributions, tmp_path):
    """The dependencies are lent by the environment of the tests: that they are declared is another test's."""
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    inside = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")})
    Path(inside, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--ignore-installed",
    ]
    run(binaries / "python", *install, distributions[kind])

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = [binaries / "python", "-c", "import encapkeras; print(encapkeras.__file__)"]
    installed = run(*where, cwd=elsewhere).strip()
    assert installed.startswith(inside)
    run(binaries / "encapkeras", "train", "quickstart", "--run-dir", "run", cwd=elsewhere)
    assert json.loads((elsewhere / "run" / "results.json").read_text())["test_accuracy"] >= 0.97

    # So do the packed models that come with it, and a licence for those of the user.
    Image.fromarray(load_digits().images[0].astype(np.uint8) * 15).save(elsewhere / "digit.png")
    shown = run(binaries / "encapkeras", "predict", "digits_dynamic", "digit.png", cwd=elsewhere)
    assert "digit.png: 0 " in shown and str(Path(installed).parent / "zoo") in shown
    run(binaries / "encapkeras", "pack", "run", "-o", "packed", cwd=elsewhere)
    assert "Apache License" in (elsewhere / "packed" / "LICENSE").read_text()

    # Specs, bases and the schema are those that were installed, whatever the current folder.
    specs = Path(installed).parent / "specs"
    listed = json.loads(run(binaries / "encapkeras", "specs", "--json", cwd=elsewhere))
    assert {row["name"]: row["file"] for row in listed} == {file.stem: str(file) for file in specs.glob("*.yaml")}
    (elsewhere / "mine.yaml").write_text(run(binaries / "encapkeras", "specs", "encapnet_svhn", cwd=elsewhere))
    run(binaries / "encapkeras", "new", "starter.yaml", "--dataset", "digits", cwd=elsewhere)
    for name in ("mine.yaml", "starter.yaml"):
        schema = (elsewhere / name).read_text().partition("$schema=")[2].split()[0]
        assert schema == (specs / "spec.schema.json").as_uri()
    run(binaries / "encapkeras", "format", "mine.yaml", "-o", "mine.json", cwd=elsewhere)
    names = ("encapnet_svhn", "mine.yaml", "mine.json", "starter.yaml")
    checked = run(binaries / "encapkeras", "check", *names, cwd=elsewhere)
    assert [line.partition(": ok, ")[0] for line in checked.splitlines()[: len(names)]] == list(names)
