"""The losses, one per file.

Read `registry` first (`register_loss`, and `CapsuleLoss`, the base of losses on outputs), with `margin` as the
shortest example; then `side_loss`, the base of losses on tensors inside a network, with `reconstruction` and
`optimal_transport`. `targets` turns labels into one-hot targets.
"""

import encapkeras.layers  # noqa: F401  # checks the Keras backend
from encapkeras.losses.cross_entropy import CrossEntropyLoss, cross_entropy
from encapkeras.losses.dice import DiceLoss, dice_loss
from encapkeras.losses.margin import MarginLoss, margin_loss
from encapkeras.losses.negative_log_likelihood import NegativeLogLikelihoodLoss, negative_log_likelihood
from encapkeras.losses.optimal_transport import OptimalTransport
from encapkeras.losses.reconstruction import ReconstructionLoss
from encapkeras.losses.registry import LOSSES, CapsuleLoss, register_loss
from encapkeras.losses.side_loss import SideLoss
from encapkeras.losses.spread import SpreadLoss, spread_loss

__all__ = [
    "LOSSES",
    "CapsuleLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "MarginLoss",
    "NegativeLogLikelihoodLoss",
    "OptimalTransport",
    "ReconstructionLoss",
    "SideLoss",
    "SpreadLoss",
    "cross_entropy",
    "dice_loss",
    "margin_loss",
    "negative_log_likelihood",
    "register_loss",
    "spread_loss",
]
