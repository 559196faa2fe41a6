"""What the mathematics needs of torch, and Keras has no part in.

`precision`, `optional_compile`, `fake_tensors` (tensors without values), `shared_batch` (a batch divided among
processes), `once_differentiable`.
"""
