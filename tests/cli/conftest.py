import pytest
from support.drawings import without_drawings
from support.tiny_spec import tiny_spec
from support.trained import trained


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The finished run of `tiny_spec()`, for tests that only look at one."""
    with without_drawings():
        return trained(tmp_path_factory.mktemp("tiny"), tiny_spec())
