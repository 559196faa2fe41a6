"""What the mathematics needs of torch.

`precision` (half precision computed in float32), `plain_gradients` (second derivatives), `once_differentiable`
(second derivatives refused), `fake_tensors` (tensors without values), `optional_compile`, `cholesky` and `numbers_on`
(no waiting for a GPU), and `shared_batch` (a batch divided among processes).
"""
