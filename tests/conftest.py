"""Runs before every test module."""

import pytest

import encapkeras  # noqa: F401  # chooses the torch backend before a test imports keras


@pytest.fixture
def double_precision():
    """Keras in float64, for comparisons with golden numbers."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
