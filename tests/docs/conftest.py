import pytest
from support.plugins import plugins_forgotten


@pytest.fixture(autouse=True)
def no_plugin_outlives_its_test():
    with plugins_forgotten():
        yield
