import pytest
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras.cli.main import main


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """Finished runs of one spec with the seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("two")
    return [trained(folder, tiny_spec(epochs=1, seed=seed), f"seed_{seed}") for seed in (0, 1)]


@pytest.fixture(scope="session")
def packed_once(two_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "tiny"
    assert main(["pack", *map(str, two_runs), "-o", str(folder)]) == 0
    return folder
