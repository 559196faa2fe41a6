"""What every test of the command line needs."""

import encapkeras  # noqa: F401  # chooses the torch backend before a test module imports Keras by itself


def pytest_configure(config):
    # Keras 3.15 turns variables into NumPy arrays in a way that NumPy 2.4 deprecates.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning")
