"""Adapters for what surrounds EM routing in the code of Gritzman 2019: votes, coordinates, and the spread loss."""

import torch

from encapkeras.functional import EmOptions, window_em_routing
from encapkeras.losses import SpreadLoss, spread_loss


def votes(meta, arrays):
    """Votes, which are never made: the mean of a parent is the vote of its one live child."""
    batch, side = meta["args"]["B"], meta["args"]["S"]
    pose, weight = arrays["in/pose"].unflatten(0, (batch, side, side)), arrays["param/w"]
    return {
        "votes": _votes(pose, weight, None).flatten(0, 2),
        "votes_with_coordinates": _votes(pose, weight, coordinates(side)),
    }


def coordinates(side):
    """Return what is added to the votes of each position, `(S, S, 16)`."""
    places = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    offsets = torch.zeros(side, side, 16, dtype=torch.float64)
    offsets[..., 3], offsets[..., 7] = places, places[:, None]
    return offsets


def _votes(pose, weight, offsets):
    """Return votes `(B, S, S, N, J, 16)`: each child is the live one of a sample of its own."""
    batch, side, _, types, _ = pose.shape
    children, outputs = side * side * types, weight.shape[2]
    live = torch.eye(children, dtype=torch.float64).unflatten(1, (side, side, types)).repeat(batch, 1, 1, 1)
    mean, _ = window_em_routing(
        pose.repeat_interleave(children, 0),
        live,
        weight.expand(side, side, -1, -1, -1, -1),
        torch.zeros(outputs, dtype=torch.float64),
        torch.zeros(outputs, dtype=torch.float64),
        iterations=1,
        offsets=offsets,
        options=EmOptions(0.01, epsilon=1e-30),
    )
    return mean[:, 0, 0].unflatten(0, (batch, side, side, types))


def spread(meta, arrays):
    """The loss at the steps in the outputs' names."""
    scores, labels = arrays["in/scores"], arrays["in/y"]
    targets = torch.nn.functional.one_hot(labels.long(), scores.shape[1]).double()
    steps = {name: int(name.removeprefix("loss_")) for name in meta["outputs"]}
    return {name: spread_loss(scores, targets, margin=margin(step)).mean() for name, step in steps.items()}


def margin(step):
    """Return the margin of the spread loss after so many steps."""
    loss = SpreadLoss(start=0.2, end=0.99, start_epoch=0, final_epochs=0, growth="sigmoid")
    loss.set_epoch(step, 700_000)  # an epoch for each step
    return loss.margin


BY_NAME = {"em_votes": votes, "em_spread": spread}
