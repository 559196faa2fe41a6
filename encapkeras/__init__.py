"""encapkeras: capsule networks for Keras 3 on PyTorch."""

__version__ = "0.1.0"
