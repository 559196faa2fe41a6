"""Keras in float64, for comparisons with golden numbers."""

import contextlib
from unittest import mock


@contextlib.contextmanager
def double_precision():
    """Make Keras compute in float64 within it."""
    import keras
    from keras.src.backend.common import dtypes

    # Keras' own layers otherwise compute in float32 whatever the policy, and there is no public setting.
    with mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, {"float64": "float64"}):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")
