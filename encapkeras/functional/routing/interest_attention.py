"""Interests of a sequence by attention (ComiRec SA), and one vector of several interests by a target.

Shape suffixes: B batch, L steps, D their dimension, J interests, E their dimension.
"""

from __future__ import annotations

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import check_sequence, check_step_mask
from encapkeras.functional.torch_support.precision import full_precision

HARD_POWER = 100
"""From this power on, label-aware attention takes the interest that agrees most, as the published code does."""


def interest_attention(
    sequence: torch.Tensor,
    hidden_weight: torch.Tensor,
    hidden_bias: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    positions: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return interests, each a mean of the steps by its own attention; padded steps have weight 0.

    `h = tanh((x + positions) W1 + b1)`, `c_j = softmax over the steps t of (h W2 + b2)_tj`, `v_j = sum_t c_tj x_t`
    (ComiRec SA, Cen et al. 2020, arXiv 2005.09347; x without positions).

    Args:
        sequence: Steps `(B, L, D)`. Half precision is computed in float32.
        hidden_weight: `W1`, `(D, hidden)`.
        hidden_bias: `b1`, `(hidden,)`.
        weight: `W2`, `(hidden, J)`.
        bias: `b2`, `(J,)`.
        positions: Added to the steps for the coefficients, `(S, D)`; of a shorter sequence the first L are taken.
        mask: True where a step is real, `(B, L)`; all are if not given.

    Returns:
        Interests `(B, J, D)`, in the type of `sequence`; 0 where no step is real.

    Raises:
        ShapeError: The sizes do not match, or the sequence is longer than `positions`.

    Examples:
        >>> sequence, positions = torch.randn(2, 50, 16), torch.zeros(50, 16)
        >>> first, second = torch.randn(16, 64) / 4, torch.randn(64, 4) / 8
        >>> out = interest_attention(sequence, first, torch.zeros(64), second, torch.zeros(4), positions=positions)
        >>> out.shape
        torch.Size([2, 4, 16])
    """
    check_sequence(sequence)
    check_step_mask(mask, sequence)
    _check_sizes(sequence, hidden_weight, hidden_bias, weight, bias, positions)
    with full_precision(sequence, weight) as wide:
        step_BLD = wide(sequence)
        padded_BL1 = None if mask is None else ~mask.bool().unsqueeze(2)
        if padded_BL1 is not None:
            step_BLD = step_BLD.masked_fill(padded_BL1, 0)
        key_BLD = step_BLD if positions is None else step_BLD + wide(positions)[: step_BLD.shape[1]]
        hidden = torch.tanh(key_BLD @ wide(hidden_weight) + wide(hidden_bias))
        share_BLJ = masked_softmax(hidden @ wide(weight) + wide(bias), padded_BL1, 1)
        return (share_BLJ.mT @ step_BLD).to(sequence.dtype)


def label_attention(
    interests: torch.Tensor,
    target: torch.Tensor,
    *,
    power: float = 1,
    hard: bool = False,
    keep_sign: bool = True,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return one vector of several interests, by how they agree with a target.

    `w_j = <v_j, target>^power`, the sum of the interests by `softmax over j of w`: label-aware attention (MIND, Li et
    al. 2019, arXiv 1904.08030). With `power` 1 it is the soft readout of ComiRec's code; `hard`, its other one,
    takes the interest that agrees most, the first of equal ones.

    Args:
        interests: `(B, J, E)`. Half precision is computed in float32.
        target: The label's vector, `(B, E)`.
        power: Above 0. From 100 on the result is that of `hard`, as a power of 100 overflows.
        hard: Whether to take one interest; the choice is a constant for the gradient.
        keep_sign: Whether a negative agreement has a negative power, `-|a|^power`. If not, `power` is a whole number,
            and an even one makes the strongest disagreement win, as in MIND's code.
        mask: True where a sample has the interest, `(B, J)`; the others have weight 0.

    Returns:
        Vectors `(B, E)`, in the type of `interests`.

    Raises:
        ArgumentError: `power` is not above 0, or not whole without `keep_sign`.
        ShapeError: The sizes do not match.

    Examples:
        >>> interests = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> label_attention(interests, torch.tensor([[2.0, 1.0]]), hard=True)
        tensor([[1., 0.]])
        >>> label_attention(interests, torch.tensor([[2.0, 1.0]]), power=2)
        tensor([[0.9526, 0.0474]])
    """
    check_power(power, keep_sign=keep_sign)
    shape = tuple(interests.shape)
    if len(shape) != 3 or 0 in shape[1:] or tuple(target.shape) != (shape[0], shape[2]):
        raise ShapeError(
            f"interests must be (batch, interests, dim) and target (batch, dim); received {shape} and "
            f"{tuple(target.shape)}"
        )
    if mask is not None and tuple(mask.shape) != shape[:2]:
        raise ShapeError(f"mask must be {shape[:2]}, as interests are {shape}; received {tuple(mask.shape)}")
    with full_precision(interests, target) as wide:
        interest_BJE = wide(interests)
        hidden_BJ = None if mask is None else ~mask.bool()
        agreement_BJ = (interest_BJE @ wide(target).unsqueeze(2)).squeeze(2)
        if not keep_sign and (hard or power >= HARD_POWER):
            # The order of even powers, without their overflow.
            agreement_BJ = agreement_BJ.abs() if power % 2 == 0 else agreement_BJ
        elif power < HARD_POWER and not hard:
            agreement_BJ = _power(agreement_BJ, power, keep_sign=keep_sign)
        if hard or power >= HARD_POWER:
            return _take_largest(interest_BJE, agreement_BJ, hidden_BJ).to(interests.dtype)
        share_BJ = masked_softmax(agreement_BJ, hidden_BJ, 1)
        return (share_BJ.unsqueeze(1) @ interest_BJE).squeeze(1).to(interests.dtype)


def check_power(power: float, *, keep_sign: bool) -> None:
    """Check the exponent of label-aware attention."""
    if not power > 0:
        raise ArgumentError(f"power must be a number above 0; received {power!r}")
    if not keep_sign and power < HARD_POWER and power != int(power):
        raise ArgumentError(
            f"power must be a whole number without keep_sign, as negative agreements have no other powers; received "
            f"{power!r}"
        )


def masked_softmax(logits: torch.Tensor, hidden: torch.Tensor | None, dim: int) -> torch.Tensor:
    """Return a softmax over what is not hidden; hidden weights are exactly 0, and all are where everything is."""
    if hidden is None:
        return logits.softmax(dim)
    smallest = torch.finfo(logits.dtype).min
    return logits.masked_fill(hidden, smallest).softmax(dim).masked_fill(hidden, 0)


def _power(agreement_BJ: torch.Tensor, power: float, *, keep_sign: bool) -> torch.Tensor:
    if power == 1:
        return agreement_BJ
    if not keep_sign:
        return agreement_BJ**power
    # Where the agreement is 0, so are the power and its gradient: a root has none there.
    is_zero_BJ = agreement_BJ == 0
    size_BJ = torch.where(is_zero_BJ, 1, agreement_BJ).abs() ** power
    return torch.where(is_zero_BJ, 0, agreement_BJ.sign() * size_BJ)


def _take_largest(
    interest_BJE: torch.Tensor, agreement_BJ: torch.Tensor, hidden_BJ: torch.Tensor | None
) -> torch.Tensor:
    """Return the interest of the largest agreement, the first of equal ones; 0 where all are hidden."""
    if hidden_BJ is not None:
        agreement_BJ = agreement_BJ.masked_fill(hidden_BJ, torch.finfo(agreement_BJ.dtype).min)
    index_B = agreement_BJ.detach().argmax(1)
    taken_BE = interest_BJE.take_along_dim(index_B[:, None, None], 1).squeeze(1)
    return taken_BE if hidden_BJ is None else taken_BE.masked_fill(hidden_BJ.all(1, keepdim=True), 0)


def _check_sizes(
    sequence: torch.Tensor,
    hidden_weight: torch.Tensor,
    hidden_bias: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    positions: torch.Tensor | None,
) -> None:
    dim = sequence.shape[2]
    fits = (
        hidden_weight.dim() == weight.dim() == 2 and len(hidden_weight) == dim and hidden_weight.shape[1] == len(weight)
    )
    if not fits or tuple(hidden_bias.shape) != (len(weight),) or tuple(bias.shape) != (weight.shape[1],):
        received = ", ".join(str(tuple(part.shape)) for part in (hidden_weight, hidden_bias, weight, bias))
        raise ShapeError(
            f"weights must be ({dim}, hidden), (hidden,), (hidden, interests) and (interests,) for a sequence "
            f"{tuple(sequence.shape)}; received {received}"
        )
    if positions is None:
        return
    if positions.dim() != 2 or positions.shape[1] != dim:
        raise ShapeError(f"positions must be (steps, {dim}); received {tuple(positions.shape)}")
    if sequence.shape[1] > len(positions):
        raise ShapeError(f"there are positions for {len(positions)} steps; received a sequence of {sequence.shape[1]}")
