"""Entropic optimal transport by Sinkhorn's iterations.

Shape suffixes: K problems, N sources, M targets, T iterations.
"""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, NamedTuple

import torch

from encapkeras.errors import ArgumentError, NotConvergedWarning, NotFiniteError, ShapeError
from encapkeras.functional.optimal_transport.transport_cost import check_floating
from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced
from encapkeras.functional.torch_support.once_differentiable import refuse_second_derivative
from encapkeras.functional.torch_support.precision import full_precision

# Factors between 1 / limit and limit cost no digits: the largest product of two of them and a kernel below limit^-3 is
# far below the smallest share that counts, and no product overflows.
_RANGE = {torch.float32: 1e12, torch.float64: 1e90}

# An exponent has the digits of float64, and its exponential those after the point: few are left beyond this.
_LARGEST_EXPONENT = 1e12


def sinkhorn(
    cost: torch.Tensor,
    *,
    epsilon: float = 1.0,
    iterations: int = 10,
    source: torch.Tensor | None = None,
    target: torch.Tensor | None = None,
    tolerance: float | None = None,
) -> torch.Tensor:
    """Return the plan that carries the source's weight to the target at little cost, and spreads it (Cuturi 2013).

    It tends to the minimum of `<P, C> + epsilon * sum P (log P - 1)` over plans with rows of sum `source` and columns
    of sum `target`. With `K = exp(-C / epsilon)` and first `b = 1 / M`, the iterations are `a = source / (K b)`, then
    `b = target / (K^T a)`; the plan is `diag(a) K diag(b)`: the columns' sums are exact, the rows' converge. Where the
    factors would overflow, their logarithms are used, in float64: on a GPU always, unless there is a `tolerance`, since
    a decision would wait for it. Gradients flow through all iterations, to the cost and the weights, with memory
    O(N M + T (N + M)). Differentiable once.

    Args:
        cost: Costs `(N, M)`, or several problems `(..., N, M)` at once. Half precision is computed in float32.
        epsilon: Strength of the entropy, in units of the cost, above 0; down to the costs' range divided by 1e12.
        iterations: Number of iterations, from 1; with `tolerance` the largest number.
        source: Weights `(N,)` above 0; 1 / N each if not given.
        target: Weights `(M,)` above 0 of the same sum; 1 / M each if not given.
        tolerance: Stop when the sum of `|P 1 - source|` is below this, in all problems; None: make all iterations.

    Returns:
        Plans of the cost's shape, in float32 or float64.

    Raises:
        ArgumentError: An argument has an invalid value, or a second derivative is asked for.
        NotFiniteError: A cost is not finite. Only checked on the CPU: elsewhere it would wait for the device.
        ShapeError: The sizes do not match.

    Warns:
        NotConvergedWarning: `tolerance` was not reached; the text has the error.

    Examples:
        >>> sinkhorn(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), epsilon=0.1)
        tensor([[5.0000e-01, 1.0306e-09],
                [1.0306e-09, 5.0000e-01]])
    """
    check_transport(epsilon, iterations, tolerance)
    check_cost(cost)
    return _plans(cost, source, target, epsilon, iterations, tolerance)


def _plans(
    cost: torch.Tensor,
    source: torch.Tensor | None,
    target: torch.Tensor | None,
    epsilon: float,
    iterations: int,
    tolerance: float | None,
) -> torch.Tensor:
    sources, targets = cost.shape[-2:]
    with full_precision(*(tensor for tensor in (cost, source, target) if isinstance(tensor, torch.Tensor))) as wide:
        cost_KNM = wide(cost).reshape(-1, sources, targets)
        source_N = _check_weights("source", source, sources, cost_KNM)
        target_M = _check_weights("target", target, targets, cost_KNM)
        _check_sums(source_N, target_M)
        plan_KNM: torch.Tensor = _Sinkhorn.apply(cost_KNM, source_N, target_M, epsilon, iterations, tolerance)
        if tolerance is not None:
            _warn_above(tolerance, _row_error(plan_KNM.detach().sum(2), source_N), iterations)
        return plan_KNM.view(cost.shape)


def marginal_error(
    plan: torch.Tensor, *, source: torch.Tensor | None = None, target: torch.Tensor | None = None
) -> torch.Tensor:
    """Return a plan's distance from its marginals: the sums of `|P 1 - source|` and `|P^T 1 - target|`.

    Args:
        plan: Plans `(..., N, M)`.
        source: Weights `(N,)`; 1 / N each if not given.
        target: Weights `(M,)`; 1 / M each if not given.

    Returns:
        Errors `(...)`.

    Raises:
        ArgumentError: The plan is not a tensor of a floating type.
        ShapeError: The plan is not a matrix.

    Examples:
        >>> marginal_error(torch.tensor([[0.5, 0.0], [0.0, 0.4]]))
        tensor(0.2000)
    """
    _check_matrices("plan", plan)
    of_rows = plan.sum(-1) - (1 / plan.shape[-2] if source is None else source)
    of_columns = plan.sum(-2) - (1 / plan.shape[-1] if target is None else target)
    return of_rows.abs().sum(-1) + of_columns.abs().sum(-1)


def check_transport(epsilon: float, iterations: int, tolerance: float | None) -> None:
    """Check the settings of a transport problem."""
    if not _is_positive(epsilon):
        raise ArgumentError(f"epsilon must be a finite number above 0; received {epsilon!r}")
    if not isinstance(iterations, numbers.Integral) or not _is_positive(iterations):
        raise ArgumentError(f"iterations must be a whole number of at least 1; received {iterations!r}")
    if tolerance is not None and not _is_positive(tolerance):
        raise ArgumentError(f"tolerance must be a finite number above 0, or None; received {tolerance!r}")


def _is_positive(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def check_cost(cost: torch.Tensor) -> None:
    """Check that costs are finite matrices of a floating type."""
    _check_matrices("cost", cost)
    if _is_readable(cost) and not all_finite(cost):
        index = tuple((~torch.isfinite(cost)).nonzero()[0].tolist())
        raise NotFiniteError(f"costs must be finite; received {cost[index].item()} at index {index}")


def _check_matrices(name: str, tensor: torch.Tensor) -> None:
    check_floating(name, tensor)
    if tensor.dim() < 2 or 0 in tensor.shape:
        raise ShapeError(f"{name} must be (sources, targets), none of them 0; received {tuple(tensor.shape)}")


def all_finite(tensor: torch.Tensor) -> bool:
    """Return whether all numbers are finite: one pass over them, as long as their sum is finite too."""
    return math.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor).all())


def _is_readable(tensor: torch.Tensor) -> bool:
    """Return whether the values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu" and has_values(tensor)


def _check_weights(name: str, given: torch.Tensor | None, size: int, like: torch.Tensor) -> torch.Tensor:
    if given is None:
        return like.new_full((size,), 1 / size)
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != (size,):
        received = tuple(given.shape) if isinstance(given, torch.Tensor) else given
        raise ShapeError(f"{name} must be a tensor ({size},), as the cost has it; received {received}")
    if _is_readable(given) and len(wrong := given[~((given > 0) & (given < math.inf))]):
        raise ArgumentError(
            f"{name} must be finite and above 0; received {wrong[0].item()} (leave out what has no weight)"
        )
    return given.to(like)


def _check_sums(source_N: torch.Tensor, target_M: torch.Tensor) -> None:
    if not _is_readable(source_N):
        return
    of_source, of_target = source_N.sum().item(), target_M.sum().item()
    if not math.isclose(of_source, of_target, rel_tol=1e-4):
        raise ArgumentError(f"source and target must have the same sum; received {of_source} and {of_target}")


def _warn_above(tolerance: float, error: float, iterations: int) -> None:
    if not error <= tolerance:
        text = (
            f"the rows' sums are still {error:.3g} from their weights after {iterations} iterations, above the "
            f"tolerance of {tolerance}: allow more iterations, or a larger epsilon"
        )
        warnings.warn(text, NotConvergedWarning, stacklevel=4)


class _Problem(NamedTuple):
    cost_KNM: torch.Tensor
    source_N: torch.Tensor
    target_M: torch.Tensor
    epsilon: float
    iterations: int
    tolerance: float | None


class _Run(NamedTuple):
    """What the iterations leave; the plan is `a_t kernel b_t` for the last t.

    `kernel_KNM` is `exp(-C / epsilon)`, each row scaled so that its largest number is 1: its factor a makes up for it.
    `a_TKN` are the rows' factors after each iteration; `b_TKM` the columns': the first ones, then those after each.
    """

    kernel_KNM: torch.Tensor
    a_TKN: torch.Tensor
    b_TKM: torch.Tensor


class _Sinkhorn(torch.autograd.Function):
    """The iterations with the factors themselves where they stay in range, otherwise with their logarithms."""

    @staticmethod
    def forward(
        context: Any,
        cost_KNM: torch.Tensor,
        source_N: torch.Tensor,
        target_M: torch.Tensor,
        epsilon: float,
        iterations: int,
        tolerance: float | None,
    ) -> torch.Tensor:
        problem = _Problem(cost_KNM, source_N, target_M, epsilon, iterations, tolerance)
        run = None if _decides_nothing(problem) else _iterate(problem)
        context.in_logarithms = run is None
        if run is None:
            run = _iterate_logarithms(problem)
            plan_KNM = _plan_of_logarithms(run.kernel_KNM, run.a_TKN[-1], run.b_TKM[-1]).to(cost_KNM.dtype)
        else:
            plan_KNM = (run.a_TKN[-1, ..., None] * run.kernel_KNM).mul_(run.b_TKM[-1, :, None])
        context.epsilon = epsilon
        context.save_for_backward(source_N, target_M, plan_KNM, *run)
        return plan_KNM

    @staticmethod
    def backward(context: Any, gradient_KNM: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        refuse_second_derivative()
        source_N, target_M, plan_KNM, *parts = context.saved_tensors
        through = _backward_logarithms if context.in_logarithms else _backward
        with full_precision(plan_KNM):  # autocast may be on here
            exponent_KNM, source, target = through(_Run(*parts), plan_KNM * gradient_KNM, source_N, target_M)
        cost = exponent_KNM.div_(-context.epsilon).to(plan_KNM.dtype)
        return cost, source.to(plan_KNM.dtype), target.to(plan_KNM.dtype), None, None, None


def _decides_nothing(problem: _Problem) -> bool:
    """Return whether no value may decide: compilers cannot look at any, and a GPU would have to be waited for."""
    return is_traced() or (problem.cost_KNM.device.type not in ("cpu", "meta") and problem.tolerance is None)


def _iterate(problem: _Problem) -> _Run | None:
    """The iterations as matrix-vector products; None where a factor leaves the range that keeps all digits."""
    cost_KNM, source_N, target_M, epsilon, iterations, tolerance = problem
    limit = _RANGE[cost_KNM.dtype]
    kernel_KNM = (cost_KNM.amin(2, keepdim=True) - cost_KNM).div_(epsilon)
    # Smaller numbers would lose digits, and make processors slow. With factors in range they are nothing.
    torch.threshold_(kernel_KNM, -3 * math.log(limit), -math.inf).exp_()
    rows, columns = _Products(kernel_KNM), _Products(kernel_KNM.mT)
    a: list[torch.Tensor] = []
    b = [torch.full_like(kernel_KNM[:, 0], 1 / len(target_M))]
    for _ in range(iterations):
        sum_KN = rows.times(b[-1])
        if a and tolerance is not None:
            error = _row_error(a[-1] * sum_KN, source_N)
            if error <= tolerance or not math.isfinite(error):
                break
        a.append(source_N / sum_KN)
        b.append(target_M / columns.times(a[-1]))
    run = _Run(kernel_KNM, torch.stack(a), torch.stack(b))
    if not has_values(kernel_KNM):
        return run  # as is usual
    smallest, largest = zip(*(factor.aminmax() for factor in run[1:]), strict=True)
    in_range = min(smallest) > 1 / limit and max(largest) < limit  # false where one is not a number
    return run if in_range else None


def _iterate_logarithms(problem: _Problem) -> _Run:
    """The same iterations on logarithms, in float64: their differences decide, and they may be large."""
    cost_KNM, source_N, target_M, epsilon, iterations, tolerance = problem
    wide = cost_KNM.dtype if cost_KNM.device.type == "mps" else torch.float64  # which has no float64
    cost_KNM = cost_KNM.to(wide)
    kernel_KNM = (cost_KNM.amin(2, keepdim=True) - cost_KNM).div_(epsilon)
    if _is_readable(kernel_KNM) and (smallest := kernel_KNM.min().item()) < -_LARGEST_EXPONENT:
        least = -smallest * epsilon / _LARGEST_EXPONENT
        raise ArgumentError(f"epsilon must be at least {least:.3g} for costs so far apart; received {epsilon!r}")
    source_N, target_M = source_N.to(wide), target_M.to(wide)
    a: list[torch.Tensor] = []
    b = [torch.full_like(kernel_KNM[:, 0], -math.log(len(target_M)))]
    for _ in range(iterations):
        sum_KN = torch.logsumexp(kernel_KNM + b[-1][:, None], 2)
        if a and tolerance is not None and _row_error((a[-1] + sum_KN).exp(), source_N) <= tolerance:
            break
        a.append(source_N.log() - sum_KN)
        b.append(target_M.log() - torch.logsumexp(kernel_KNM + a[-1][..., None], 1))
    return _Run(kernel_KNM, torch.stack(a), torch.stack(b))


def _backward(
    run: _Run, pulled_KNM: torch.Tensor, source_N: torch.Tensor, target_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the exponent `-C / epsilon` and of the weights.

    A half of an iteration adds a matrix of rank one times the kernel: `a` times `y`, or `x` times the `b` before, where
    `y = b / target * gradient of log b` and `x = a / source * gradient of log a`. All of them are one product.
    """
    kernel_KNM, a_TKN, b_TKM = run
    rows, columns = _Products(kernel_KNM), _Products(kernel_KNM.mT)
    by_a_TKN, by_b_TKM = a_TKN.square() / -source_N, b_TKM.square() / -target_M
    x, y = [], [b_TKM[-1] / target_M * pulled_KNM.sum(1)]
    last = len(a_TKN) - 1
    for t in range(last, -1, -1):
        x_KN = by_a_TKN[t] * rows.times(y[-1])
        if t == last:
            x_KN = x_KN + a_TKN[t] / source_N * pulled_KNM.sum(2)
        x.append(x_KN)
        if t:
            y.append(by_b_TKM[t] * columns.times(x_KN))
    x_TKN, y_TKM = torch.stack(x[::-1]), torch.stack(y[::-1])
    left, right = torch.cat([a_TKN, x_TKN]), torch.cat([y_TKM, b_TKM[:-1]])
    rank_KNM = left.permute(1, 2, 0) @ right.transpose(0, 1)
    of_source, of_target = (x_TKN / a_TKN).sum((0, 1)), (y_TKM / b_TKM[1:]).sum((0, 1))
    return pulled_KNM.sub_(rank_KNM.mul_(kernel_KNM)), of_source, of_target


def _backward_logarithms(
    run: _Run, pulled_KNM: torch.Tensor, source_N: torch.Tensor, target_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same with logarithms of the factors: the plans of all half iterations are made again."""
    kernel_KNM, a_TKN, b_TKM = run
    source_N, target_M = source_N.to(kernel_KNM.dtype), target_M.to(kernel_KNM.dtype)
    exponent_KNM = pulled_KNM.to(kernel_KNM.dtype)
    of_a, of_b = exponent_KNM.sum(2), exponent_KNM.sum(1)  # of the logarithms
    of_source, of_target = torch.zeros_like(source_N), torch.zeros_like(target_M)
    for t in range(len(a_TKN) - 1, -1, -1):
        share_KM = of_b / target_M
        of_target += share_KM.sum(0)
        pushed_KNM = _plan_of_logarithms(kernel_KNM, a_TKN[t], b_TKM[t + 1]).mul_(share_KM[:, None])
        exponent_KNM = exponent_KNM - pushed_KNM
        share_KN = (of_a - pushed_KNM.sum(2)) / source_N
        of_source += share_KN.sum(0)
        pushed_KNM = _plan_of_logarithms(kernel_KNM, a_TKN[t], b_TKM[t]).mul_(share_KN[..., None])
        exponent_KNM -= pushed_KNM
        of_a, of_b = torch.zeros_like(of_a), -pushed_KNM.sum(1)
    return exponent_KNM, of_source, of_target


class _Products:
    """Products of matrices with one vector each."""

    def __init__(self, matrix_KNM: torch.Tensor) -> None:
        self._matrix_KNM = matrix_KNM
        # On CPUs torch's batched product is many times slower for a single column.
        self._one_by_one = matrix_KNM.unbind() if matrix_KNM.device.type == "cpu" else ()

    def times(self, vector_KM: torch.Tensor) -> torch.Tensor:
        if not self._one_by_one:
            return (self._matrix_KNM @ vector_KM[..., None])[..., 0]
        products = map(torch.mv, self._one_by_one, vector_KM.unbind())
        return torch.stack(list(products))


def _plan_of_logarithms(kernel_KNM: torch.Tensor, a_KN: torch.Tensor, b_KM: torch.Tensor) -> torch.Tensor:
    return (kernel_KNM + a_KN[..., None]).add_(b_KM[:, None]).exp_()


def _row_error(sum_KN: torch.Tensor, source_N: torch.Tensor) -> float:
    return (sum_KN - source_N).abs().sum(1).max().item()
