"""Chooses the torch backend before a test module imports Keras by itself."""

import encapkeras  # noqa: F401
