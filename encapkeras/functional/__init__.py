"""The mathematics: pure functions on torch tensors, without Keras."""
