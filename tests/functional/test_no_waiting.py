"""No function waits for a GPU, forward or backward; what it does in place of waiting has the same results."""

import pytest
import torch
from support.pretended_gpu import GPU, PretendedGpu
from support.transport_problems import normal
from support.window_methods import METHODS, random_inputs

from encapkeras.functional import (
    convolution_dynamic_routing,
    dynamic_routing,
    em_routing,
    sinkhorn,
    squash,
    transport,
    transport_cost,
    transposed_convolution_dynamic_routing,
)
from encapkeras.functional.torch_support.cholesky import cholesky
from encapkeras.functional.torch_support.numbers_on import numbers_on

COSTS = ["l2", "cosine", "sqeuclidean"]


def without_waiting(function, *tensors):
    """Results and gradients of a function on a GPU that is only pretended, which must equal those on the CPU."""
    found = []
    for gpu in (PretendedGpu(), None):
        leaves = [tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors]
        if gpu is None:
            found.append(_run(function, leaves))
            continue
        with gpu:
            assert all(leaf.device == GPU for leaf in leaves)
            function(*leaves)  # what is made once and kept is allowed to wait
            gpu.waits.clear()
            found.append(_run(function, leaves))
        assert not gpu.waits, "\n".join(map(str, gpu.waits))
    for received, expected in zip(*found, strict=True):
        torch.testing.assert_close(received, expected, rtol=1e-9, atol=1e-9)
    return found[0]


def _run(function, leaves):
    results = function(*leaves)
    results = [result for result in (results if isinstance(results, tuple) else (results,)) if result is not None]
    through = [result for result in results if result.requires_grad]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = torch.autograd.grad(sum(result.sin().sum() for result in through), wanted, materialize_grads=True)
    return [tensor.detach() for tensor in (*results, *gradients)]


@pytest.mark.parametrize(
    "operation, named",
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: float(x.sum()), "float"),
        (lambda x: 1 if x.sum() > 0 else 0, "bool"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x.masked_fill(x > 0, 0).index_put_((x > 0,), x.sum()), "index_put_ by a mask"),
        (lambda x: x.masked_select(x > 0), "masked_select"),
        (lambda x: x.unique(), "unique"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.cpu(), "cpu"),
        (lambda x: x.to("cpu"), "to"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: x + torch.tensor([1.0, 2.0], device=x.device), "tensor"),
        (lambda x: x.new_tensor(3.0), "new_tensor"),
        (lambda x: torch.ones(2).to(x), "to"),
        (lambda x: x[[0, 1]], "index"),
        (lambda x: x[torch.tensor([0])], "index"),
        (lambda x: torch.linalg.cholesky(x[:, None] * x + torch.eye(2, device=x.device)), "linalg"),
    ],
)
def test_what_waits_is_named_with_its_line(operation, named):
    with PretendedGpu() as gpu:
        x = torch.rand(2, device="cuda")
        operation(x)
    assert gpu.waits and named in gpu.waits[0].operation
    assert "outside of encapkeras" in str(gpu.waits[0])


def test_what_does_not_wait_is_not_named():
    with PretendedGpu() as gpu:
        x = torch.rand(2, 3, device="cuda")
        assert x.device == GPU and (x + 1).is_cuda and torch.ones(2).device.type == "cpu"
        torch.where(x > 0, x, 0.5)[:, 1:].clamp(min=0.1).masked_fill(x[:, 1:] > 0, 2.0).sum()
        torch.ones(2).sum().item()
        x.new_full((), 3.0) * torch.zeros((), device="cuda") + torch.arange(3, device="cuda")
    assert not gpu.waits


def test_the_line_is_that_of_the_package():
    with PretendedGpu() as gpu:
        sinkhorn(torch.rand(3, 3, device="cuda"), tolerance=1e-3)  # which has to look at its error
    assert "encapkeras/functional/optimal_transport/sinkhorn.py" in gpu.waits[0].line


@pytest.mark.parametrize("axis", ["inputs", "outputs"])
def test_dynamic_routing(axis):
    without_waiting(
        lambda *leaves: dynamic_routing(*leaves, softmax_over=axis),
        normal(0, 2, 9, 3, 4),
        normal(1, 3, 5, 6, 4),
        normal(2, 3, 5, 6),
    )


@pytest.mark.parametrize("positions", [1, 9])
def test_dynamic_routing_with_a_bias_of_the_outputs(positions):
    without_waiting(
        lambda *leaves: dynamic_routing(*leaves[:2], output_bias=leaves[2]),
        normal(0, 2, positions, 3, 4),
        normal(1, 3, 5, 6, 4),
        normal(2, 5, 6),
    )


@pytest.mark.parametrize("dim", [2, 8])  # by votes, by patches
@pytest.mark.parametrize("squash_over", ["map", "capsule"])
def test_convolution_dynamic_routing(squash_over, dim):
    without_waiting(
        lambda *leaves: convolution_dynamic_routing(*leaves, squash_over=squash_over),
        normal(0, 2, 4, 3, 3, 4),
        normal(1, 5 * dim, 4, 3, 3),
        normal(2, 5, dim),
    )


def test_transposed_convolution_dynamic_routing():
    without_waiting(
        transposed_convolution_dynamic_routing, normal(0, 2, 4, 3, 3, 4), normal(1, 4, 10, 4, 4), normal(2, 5, 2)
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_em_routing(normalize):
    without_waiting(
        lambda *leaves: em_routing(*leaves, normalize_distances=normalize),
        normal(0, 2, 9, 3, 4),
        normal(1, 3, 5, 6, 4),
        normal(2, 3, 5, 6),
        normal(3, 2, 9, 3).sigmoid(),
        normal(4, 5),
        normal(5, 5),
    )


@pytest.mark.parametrize("pose", ["vector", "matrix"])
@pytest.mark.parametrize("name", METHODS)
def test_routing_in_windows(name, pose):
    inputs = random_inputs(pose=pose)
    options = {"iterations": 2, "strides": (2, 1), "padding": 1, "pose": pose}
    without_waiting(lambda *leaves: METHODS[name](type(inputs)(*leaves), **options), *inputs)


@pytest.mark.parametrize("place", ["root", "length", "square"])
def test_squash_with_an_epsilon(place):
    without_waiting(lambda x: squash(x, epsilon=1e-7, epsilon_in=place, offset=1e-8), normal(0, 3, 4, 5))


@pytest.mark.parametrize("variant", ["paper", "exponential", "sigmoid"])
def test_squash(variant):
    without_waiting(lambda x: squash(x, variant=variant), normal(0, 3, 4, 5))


@pytest.mark.parametrize("features", [3, 50])
@pytest.mark.parametrize("cost", COSTS)
def test_costs(cost, features):
    x, y = normal(0, 7, features), normal(1, 5, features)
    y[:3] = x[:3]
    found, *gradients = without_waiting(lambda x, y: transport_cost(x, y, cost=cost), x, y)
    assert (found[:3, :3].diagonal() == 0).all() and all(gradient.isfinite().all() for gradient in gradients)


def test_costs_in_pieces(monkeypatch):
    monkeypatch.setattr("encapkeras.functional.optimal_transport.transport_cost._PIECE_ELSEWHERE", 20)
    without_waiting(transport_cost, normal(0, 7, 3), normal(1, 5, 3))


def test_very_many_differences_are_left_to_products(monkeypatch):
    monkeypatch.setattr("encapkeras.functional.optimal_transport.transport_cost._DIRECT", 20)
    with PretendedGpu() as gpu:
        transport_cost(torch.rand(7, 40, device="cuda"), torch.rand(5, 40, device="cuda"))
    assert [wait.operation for wait in gpu.waits] == ["aten.nonzero"]


@pytest.mark.parametrize("gradient", ["envelope", "implicit", "unrolled"])
def test_transport(gradient):
    without_waiting(lambda x, y: transport(x, y, gradient=gradient), normal(0, 6, 40), normal(1, 6, 40))


def test_sinkhorn_with_weights():
    source, target = normal(1, 5).exp().softmax(0), normal(2, 6).exp().softmax(0)
    without_waiting(
        lambda cost, *weights: sinkhorn(cost, source=weights[0], target=weights[1], epsilon=0.5),
        normal(0, 2, 5, 6).abs(),
        source,
        target,
    )


def test_no_factor_is_an_error_on_a_cpu_and_nan_on_a_gpu():
    matrix = torch.stack([torch.eye(3), -torch.eye(3)])
    with pytest.raises(RuntimeError, match="positive"):
        cholesky(matrix)
    with PretendedGpu() as gpu:
        factor = cholesky(matrix)
    assert not gpu.waits and torch.equal(factor[0], torch.eye(3)) and factor[1].isnan().all()


@pytest.mark.parametrize("numbers", [0.1, 3, [0.1, -2, 7.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_are_the_same_wherever_they_are_made(numbers, dtype):
    like = torch.zeros(2, dtype=dtype)
    expected = numbers_on(like, numbers)
    with PretendedGpu() as gpu:
        received = numbers_on(like, numbers)
    assert not gpu.waits and received.dtype == dtype and torch.equal(received, expected)
