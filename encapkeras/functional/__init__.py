"""The mathematics: pure functions on torch tensors, without Keras.

Read `squash`, `convolution` and `batch_norm` first; then `capsule_convolution` (steps, blocks and stages),
`primary_capsules`, `convolution_capsules`, `capsule_dense`, and the packages `routing` and `optimal_transport`.
`batch_norm_relu_squash` is a faster way through three of them, `transposed_decoder` makes images, and `torch_support`
has what they need of torch.
"""

from encapkeras.functional.batch_norm import NormWeights, batch_norm, capsule_batch_norm
from encapkeras.functional.batch_norm_relu_squash import affine_relu_squash, batch_norm_relu_squash
from encapkeras.functional.bilinear_decoder import bilinear_decoder, first_map
from encapkeras.functional.block_weights import (
    ApproximateWeights,
    BlockOptions,
    BlockWeights,
    ConvolutionWeights,
    StepWeights,
)
from encapkeras.functional.capsule_convolution import StageOutputs, capsule_block, capsule_stage
from encapkeras.functional.capsule_dense import (
    capsule_dense_factored,
    capsule_dense_full,
    capsule_dense_per_dim,
    capsule_length,
    list_capsules,
    mask_capsules,
)
from encapkeras.functional.convolution import conv_bn_relu
from encapkeras.functional.convolution_capsules import convolution_capsules
from encapkeras.functional.homogeneous_vectors import homogeneous_vector_capsules, merge_branches
from encapkeras.functional.optimal_transport.sinkhorn import marginal_error, sinkhorn
from encapkeras.functional.optimal_transport.transport_cost import transport_cost
from encapkeras.functional.optimal_transport.transport_divergence import Transport, transport, transport_divergence
from encapkeras.functional.optimal_transport.transport_unit import (
    CriticWeights,
    NormedConvolution,
    reverse_gradient,
    transport_critic,
    transport_generator,
)
from encapkeras.functional.primary_capsules import primary_capsules
from encapkeras.functional.routing.convolution_dynamic_routing import convolution_dynamic_routing
from encapkeras.functional.routing.dynamic_routing import dynamic_routing
from encapkeras.functional.routing.em_routing import em_routing
from encapkeras.functional.routing.heinsen_2019 import heinsen_2019_routing
from encapkeras.functional.routing.heinsen_2022 import VectorRoutingWeights, end_to_end_credit, heinsen_2022_routing
from encapkeras.functional.routing.interest_attention import interest_attention, label_attention
from encapkeras.functional.routing.interest_routing import interest_count, interest_routing
from encapkeras.functional.routing.inverted_attention import AttentionLayer, inverted_attention_routing
from encapkeras.functional.routing.self_attention import self_attention_routing
from encapkeras.functional.routing.self_routing import self_routing
from encapkeras.functional.routing.transposed_convolution_dynamic_routing import transposed_convolution_dynamic_routing
from encapkeras.functional.routing.variational_bayes import variational_bayes_routing
from encapkeras.functional.routing.window_dynamic_routing import window_dynamic_routing
from encapkeras.functional.routing.window_em_routing import EmOptions, window_em_routing
from encapkeras.functional.squash import SquashOptions, squash
from encapkeras.functional.transposed_decoder import DecoderWeights, TransposedConvolution, transposed_decoder

__all__ = [
    "ApproximateWeights",
    "AttentionLayer",
    "BlockOptions",
    "BlockWeights",
    "ConvolutionWeights",
    "CriticWeights",
    "DecoderWeights",
    "EmOptions",
    "NormWeights",
    "NormedConvolution",
    "SquashOptions",
    "StageOutputs",
    "StepWeights",
    "Transport",
    "TransposedConvolution",
    "VectorRoutingWeights",
    "affine_relu_squash",
    "batch_norm",
    "batch_norm_relu_squash",
    "bilinear_decoder",
    "capsule_batch_norm",
    "capsule_block",
    "capsule_dense_factored",
    "capsule_dense_full",
    "capsule_dense_per_dim",
    "capsule_length",
    "capsule_stage",
    "conv_bn_relu",
    "convolution_capsules",
    "convolution_dynamic_routing",
    "dynamic_routing",
    "em_routing",
    "end_to_end_credit",
    "first_map",
    "heinsen_2019_routing",
    "heinsen_2022_routing",
    "homogeneous_vector_capsules",
    "interest_attention",
    "interest_count",
    "interest_routing",
    "inverted_attention_routing",
    "label_attention",
    "list_capsules",
    "marginal_error",
    "mask_capsules",
    "merge_branches",
    "primary_capsules",
    "reverse_gradient",
    "self_attention_routing",
    "self_routing",
    "sinkhorn",
    "squash",
    "transport",
    "transport_cost",
    "transport_critic",
    "transport_divergence",
    "transport_generator",
    "transposed_convolution_dynamic_routing",
    "transposed_decoder",
    "variational_bayes_routing",
    "window_dynamic_routing",
    "window_em_routing",
]
