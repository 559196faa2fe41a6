"""Capsule convolution blocks and stages equal the original's, values and gradients, in float64."""

import pytest
import torch
from support import golden

from encapkeras.functional import (
    ApproximateWeights,
    BlockOptions,
    BlockWeights,
    ConvolutionWeights,
    NormWeights,
    StepWeights,
    capsule_block,
    capsule_stage,
)

BLOCKS = [
    "capconv_plain",
    "capconv_residual_main",
    "capconv_residual_sub",
    "capconv_residual_sub_layerwise",
    "capconv_wide_main",
    "capconv_capbn",
    "capconv_norelu",
    "capconv_route3_main",
    "capconv_route3_sub",
    "capconv_route4_main",
]
STAGES = ["capconv2_nodown", "capconv2_within", "capconv2_within2_route3"]


def convolution(parameters, name):
    return ConvolutionWeights(parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def norm(parameters, name):
    scale = parameters[f"{name}.weight"]
    return NormWeights(
        scale, parameters[f"{name}.bias"], torch.zeros_like(scale.detach()), torch.ones_like(scale.detach())
    )


def routing(parameters, name, kernels):
    if f"{name}.conv.0.weight" in parameters:
        return tuple(convolution(parameters, f"{name}.conv.{k}") for k in range(kernels))
    master = tuple(convolution(parameters, f"{name}.main_cap.0.conv.{k}") for k in range(kernels))
    return ApproximateWeights(
        master,
        norm(parameters, f"{name}.main_cap.1"),
        convolution(parameters, f"{name}.res_cap.0"),
        norm(parameters, f"{name}.res_cap.1"),
        convolution(parameters, f"{name}.main_cap_coeff"),
        convolution(parameters, f"{name}.res_cap_coeff"),
    )


def block_weights(parameters, prefix, steps, kernels=1):
    made = tuple(
        StepWeights(
            routing(parameters, f"{prefix}block.{4 * step}", kernels),
            norm(parameters, f"{prefix}block.{4 * step + 1}"),
        )
        for step in range(steps)
    )
    projection = f"{prefix}conv_adjust_blob_shape"
    return BlockWeights(made, convolution(parameters, projection) if f"{projection}.weight" in parameters else None)


def as_capsules(image, types):
    return image.permute(0, 2, 3, 1).unflatten(3, (types, -1))


def as_image(capsules):
    return capsules.flatten(3).permute(0, 3, 1, 2)


def skip_of(meta, residual):
    if not residual:
        return "none"
    return "every" if meta.get("layerwise_skip_connect") else "last"


COEFFICIENTS = {"0": "cross", "3": "cross", "4": "own"}


def leaves(tensors):
    return {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}


def assert_gradients(x, parameters, expected):
    golden.assert_equal(x.grad, expected.input_gradients["x"])
    for name, gradient in expected.parameter_gradients.items():
        golden.assert_equal(parameters[name].grad, gradient)


@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_the_original(name):
    expected = golden.load(name)
    meta, parameters, x = expected.meta, leaves(expected.parameters), expected.inputs["x"].clone().requires_grad_()
    options = BlockOptions(
        types=meta["groups"],
        strides=meta.get("stride", 1),
        skip=skip_of(meta, meta["residual"]),
        coefficients=COEFFICIENTS[meta["manner"]],
        normalization="capsule" if meta.get("use_capBN") else "channel",
        relu=not meta.get("skip_relu"),
    )
    weights = block_weights(parameters, "", meta["N"], len(meta.get("kernel_size", [1])))
    y = as_image(capsule_block(as_capsules(x, options.types), weights, options, training=True))
    golden.assert_equal(y, expected.outputs["y"])
    (y * golden.weights_of_sum(13, y.shape)).sum().backward()
    assert_gradients(x, parameters, expected)


@pytest.mark.parametrize("name", STAGES)
def test_stage_equals_the_original(name):
    expected = golden.load(name)
    meta, parameters, x = expected.meta, leaves(expected.parameters), expected.inputs["x"].clone().requires_grad_()
    shared = {"types": meta["groups"], "coefficients": COEFFICIENTS[meta["manner"]]}
    main_options = BlockOptions(
        strides=1 if meta.get("no_downsample") else 2, skip=skip_of(meta, meta["residual"][0]), **shared
    )
    sub_options = BlockOptions(skip=skip_of(meta, meta["residual"][1]), **shared)
    outputs = capsule_stage(
        as_capsules(x, meta["groups"]),
        block_weights(parameters, "main_conv.", 1),
        block_weights(parameters, "sub_conv.", meta["iter_N"]),
        main_options,
        sub_options,
        training=True,
    )
    y = as_image(outputs.out)
    golden.assert_equal(y, expected.outputs["y"])
    if meta.get("ot_choice") == "within":
        golden.assert_equal(as_image(outputs.main), expected.outputs["tap0"])
        golden.assert_equal(y, expected.outputs["tap1"])
    if meta.get("ot_choice") == "within2":
        golden.assert_equal(x, expected.outputs["tap0"])
        golden.assert_equal(as_image(outputs.half), expected.outputs["tap1"])
    (y * golden.weights_of_sum(17, y.shape)).sum().backward()
    assert_gradients(x, parameters, expected)
