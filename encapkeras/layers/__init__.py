"""The Keras layers, one per file: they hold weights, check shapes, and call `encapkeras.functional`.

Read `registry` first (`register_layer`, and `CapsuleLayer`, the base of all), with `squash` as the shortest example.
`conv_bn_relu` and `primary_capsules` come before the capsules; `capsule_convolution` and `capsule_stage` make their
weights with `block_weights`; `dynamic_capsules` and `em_capsules` are based on `voting_layer`; the layers that
route in windows, such as `self_routing_capsules`, on `window_layer`; `convolution_capsules` and
`convolution_dynamic_capsules` are those of DeepCaps, `transposed_convolution_dynamic_capsules` those of SegCaps;
`capsule_dense` and `capsule_length` end a network.
`initializers` and `kernel_sizes` are types of arguments.
"""

import warnings
from typing import Any

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.layers.add_coordinates import AddCoordinates
from encapkeras.layers.backbone import Backbone  # noqa: F401  # registers itself
from encapkeras.layers.batch_norm import BatchNorm
from encapkeras.layers.capsule_convolution import CapsuleConvolution
from encapkeras.layers.capsule_dense import CapsuleDense
from encapkeras.layers.capsule_length import CapsuleLength
from encapkeras.layers.capsule_stage import CapsuleStage
from encapkeras.layers.capsules_to_image import CapsulesToImage
from encapkeras.layers.conv_bn_relu import ConvBnRelu
from encapkeras.layers.convolution_capsules import ConvolutionCapsules
from encapkeras.layers.convolution_dynamic_capsules import ConvolutionDynamicCapsules
from encapkeras.layers.dynamic_capsules import DynamicCapsules
from encapkeras.layers.em_capsules import EmCapsules
from encapkeras.layers.heinsen_2019_capsules import Heinsen2019Capsules
from encapkeras.layers.heinsen_2022_capsules import Heinsen2022Capsules
from encapkeras.layers.homogeneous_vector_capsules import HomogeneousVectorCapsules
from encapkeras.layers.image_to_capsules import ImageToCapsules
from encapkeras.layers.interest_attention import InterestAttention
from encapkeras.layers.interest_capsules import InterestCapsules
from encapkeras.layers.inverted_attention_capsules import InvertedAttentionCapsules
from encapkeras.layers.inverted_attention_stack import InvertedAttentionStack
from encapkeras.layers.label_attention import LabelAttention
from encapkeras.layers.merge_branches import MergeBranches
from encapkeras.layers.normalize import Normalize
from encapkeras.layers.primary_capsules import PrimaryCapsules
from encapkeras.layers.registry import LAYERS, CapsuleLayer, register_layer
from encapkeras.layers.saved_spec_model import SavedSpecModel  # noqa: F401  # registers itself
from encapkeras.layers.self_attention_capsules import SelfAttentionCapsules
from encapkeras.layers.self_routing_capsules import SelfRoutingCapsules
from encapkeras.layers.squash import Squash
from encapkeras.layers.transposed_convolution_dynamic_capsules import TransposedConvolutionDynamicCapsules
from encapkeras.layers.variational_bayes_capsules import VariationalBayesCapsules
from encapkeras.layers.voting_layer import VotingLayer
from encapkeras.layers.window_dynamic_capsules import WindowDynamicCapsules
from encapkeras.layers.window_em_capsules import WindowEmCapsules
from encapkeras.layers.window_layer import WindowLayer

__all__ = [
    "LAYERS",
    "AddCoordinates",
    "BatchNorm",
    "CapsuleConvolution",
    "CapsuleDense",
    "CapsuleLayer",
    "CapsuleLength",
    "CapsuleStage",
    "CapsulesToImage",
    "ConvBnRelu",
    "ConvolutionCapsules",
    "ConvolutionDynamicCapsules",
    "DynamicCapsules",
    "EmCapsules",
    "Heinsen2019Capsules",
    "Heinsen2022Capsules",
    "HomogeneousVectorCapsules",
    "ImageToCapsules",
    "InterestAttention",
    "InterestCapsules",
    "InvertedAttentionCapsules",
    "InvertedAttentionStack",
    "LabelAttention",
    "MergeBranches",
    "Normalize",
    "PrimaryCapsules",
    "SelfAttentionCapsules",
    "SelfRoutingCapsules",
    "Squash",
    "TransposedConvolutionDynamicCapsules",
    "VariationalBayesCapsules",
    "VotingLayer",
    "WindowDynamicCapsules",
    "WindowEmCapsules",
    "WindowLayer",
    "register_layer",
]


def __getattr__(name: str) -> Any:
    if name != "Normalise":
        raise AttributeError(f"module 'encapkeras.layers' has no attribute '{name}'")
    warnings.warn("encapkeras.layers.Normalise is now called Normalize", DeprecationWarning, stacklevel=2)
    return Normalize
