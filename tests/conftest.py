"""Runs before every test module."""

import encapkeras  # noqa: F401  # chooses the torch backend before a test imports keras
