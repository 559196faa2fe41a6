"""Routing in windows: numbers of the authors' code, and what every routing must hold."""

from pathlib import Path

import pytest
import torch
from golden import check
from golden.routing_layers import call
from support.routing import LargestTensor, gradients, largest_difference

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import (
    AttentionLayer,
    EmOptions,
    VectorRoutingWeights,
    heinsen_2022_routing,
    inverted_attention_routing,
    self_attention_routing,
    self_routing,
    squash,
    variational_bayes_routing,
    window_dynamic_routing,
    window_em_routing,
)
from encapkeras.functional.routing import window_pieces, window_votes

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = [path for folder in ("routings_a", "routings_b") for path in check.files(GOLDEN / folder)]

TYPES, DIM, OUTPUTS = 3, 4, 4


class Case:
    """A routing of capsules and activations by weights of random numbers."""

    def __init__(self, name, **sizes):
        self.name = name
        self.tensors = random_tensors(**sizes)

    def __call__(self, *tensors, strides=1, padding=0):
        capsules, activations, weight, routing, bias, beta, scale = tensors or self.tensors
        window = {"strides": strides, "padding": padding}
        matrix = weight.unflatten(4, (2, 2))[..., 0]
        if self.name == "self_routing":
            return self_routing(capsules, activations, weight, routing, bias, **window)
        if self.name == "self_attention":
            return (self_attention_routing(capsules, weight, bias, **window),)
        if self.name == "inverted_attention":
            layer = AttentionLayer(weight, scale, 0.1 * scale, **window)
            return (inverted_attention_routing(capsules, layer, iterations=3),)
        if self.name == "inverted_attention_matrix":
            layer = AttentionLayer(matrix, scale, 0.1 * scale, pose="matrix", **window)
            return (inverted_attention_routing(capsules, layer, iterations=3),)
        if self.name.startswith("dynamic"):
            return (window_dynamic_routing(capsules, weight, competition=self.name.partition("_")[2], **window),)
        if self.name.startswith("em"):
            competition = self.name.partition("_")[2]
            options = EmOptions(final_lambda=0.1)
            return window_em_routing(
                capsules,
                activations,
                weight,
                beta,
                -beta,
                competition=competition,
                pose="vector",
                options=options,
                **window,
            )
        return variational_bayes_routing(
            capsules, activations, matrix, covariance=self.name.partition("_")[2], **window
        )


METHODS = [
    "self_routing",
    "self_attention",
    "inverted_attention",
    "inverted_attention_matrix",
    "dynamic_position",
    "dynamic_child",
    "em_position",
    "em_child",
    "bayes_diagonal",
    "bayes_full",
]
ACTIVE = [name for name in METHODS if name.startswith(("self_routing", "em", "bayes"))]
POSE_ALONE = [name for name in METHODS if name not in ACTIVE]


def random_tensors(*, batch=2, height=5, width=4, kernel=(3, 2), types=TYPES, outputs=OUTPUTS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    window = (*kernel, types, outputs)
    tensors = (
        normal(batch, height, width, types, DIM),
        torch.rand((batch, height, width, types), generator=generator, dtype=torch.float64),
        normal(*window, DIM, DIM) / 2,
        normal(*window, DIM),
        normal(*window),
        normal(outputs),
        1 + 0.1 * normal(DIM),
    )
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_equals_the_authors_code(path):
    result = check.check_layer(path)
    assert result.holds, str(result)


@pytest.mark.parametrize("iterations", [1, 2])
def test_the_scrambled_layout_of_a_release_is_not_ours(iterations):
    """Its windows were unrolled with the position last, and read as if the capsule's components were."""
    path = GOLDEN / "routings_a" / "layers" / f"idpa_conv_scrambled_matrix_t{iterations}.npz"
    meta, arrays = check.read(path)
    received = call(path.stem, meta, arrays)["v"]
    assert received.shape == arrays["out/v"].shape
    assert largest_difference([received], [arrays["out/v"]]) > 0.1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("strides", "padding"), [(1, 0), ((2, 1), (1, 0))])
def test_pieces_do_not_change_the_result(name, strides, padding, monkeypatch):
    case = Case(name)
    whole = case(strides=strides, padding=padding)
    expected = gradients(whole, case.tensors, materialize=True)
    monkeypatch.setattr(window_pieces, "_PIECE", {"cpu": 50})
    pieces = case(strides=strides, padding=padding)
    assert largest_difference(pieces, whole) < 1e-10
    assert largest_difference(gradients(pieces, case.tensors, materialize=True), expected) < 1e-8


@pytest.mark.parametrize("name", METHODS)
def test_votes_that_are_kept_do_not_change_the_result(name, monkeypatch):
    """They are where there is one position of parents."""
    case = Case(name, kernel=(5, 4))
    kept = case()
    found = gradients(kept, case.tensors, materialize=True)
    with torch.no_grad():
        assert largest_difference(case(), kept) < 1e-12
    monkeypatch.setattr(window_votes, "_FEW", 0)
    expected = case()
    assert largest_difference(kept, expected) < 1e-12
    assert largest_difference(found, gradients(expected, case.tensors, materialize=True)) < 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_gradients(name):
    case = Case(name, batch=1, height=3, width=2, kernel=(2, 1), types=2, outputs=2)
    assert torch.autograd.gradcheck(case, case.tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(case, case.tensors, fast_mode=True)


@pytest.mark.parametrize("name", METHODS)
def test_shifting_the_children_shifts_the_parents(name):
    """Around them is nothing, so that no child has fewer parents than before."""
    case = Case(name, height=11, width=8)
    capsules, activations, *weights = case.tensors
    alive = torch.zeros(11, 8, 1, dtype=torch.float64)
    alive[3:6, 3:5] = 1
    maps = [capsules * alive.unsqueeze(-1), activations * alive]
    before = case(*maps, *weights, strides=(2, 1))
    after = case(*(part.roll(2, 1) for part in maps), *weights, strides=(2, 1))
    assert largest_difference([part[:, 1:] for part in after], [part[:, :-1] for part in before]) < 1e-12


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_types_means_nothing(name):
    case = Case(name)
    order = torch.tensor([2, 0, 1])
    capsules, activations, weight, routing, bias, *rest = case.tensors
    by_window = [tensor[:, :, order] for tensor in (weight, routing, bias)]
    received = case(capsules[:, :, :, order], activations[..., order], *by_window, *rest)
    assert largest_difference(received, case()) < 1e-12


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["zeros", "constant", "large", "one child", "no activations", "one sample"])
def test_stays_finite(name, kind):
    case = Case(name, dtype=torch.float32, batch=1 if kind == "one sample" else 2)
    capsules, activations = case.tensors[0].detach(), case.tensors[1].detach()
    if kind == "zeros":
        capsules = capsules * 0
    elif kind == "constant":
        capsules = capsules * 0 + 1
    elif kind == "large":
        capsules = capsules * 1e4
    elif kind == "one child":
        activations = activations * 0
        activations[:, 2, 1, 0] = 1
    elif kind == "no activations":
        activations = activations * 0
    tensors = [capsules.requires_grad_(), activations.requires_grad_(), *case.tensors[2:]]
    outputs = case(*tensors, padding=1)
    assert all(part.isfinite().all() for part in outputs)
    assert all(part.isfinite().all() for part in gradients(outputs, tensors, materialize=True))


def test_self_routing_shares_all_activation():
    _, out = Case("self_routing")()
    assert largest_difference([out.sum(-1)], [torch.ones(out.shape[:-1], dtype=out.dtype)]) < 1e-12


def test_without_decisions_self_routing_is_uniform():
    capsules, activations, weight, routing, bias, *_ = random_tensors()
    pose, out = self_routing(capsules, activations, weight, routing * 0, bias * 0)
    assert largest_difference([out], [torch.full_like(out, 1 / OUTPUTS)]) < 1e-12
    betas = torch.zeros(2, OUTPUTS, dtype=torch.float64)
    options = {"iterations": 1, "competition": "position", "pose": "vector"}
    means, _ = window_em_routing(capsules, activations, weight, *betas, **options)
    assert largest_difference([pose], [means]) < 1e-7  # but for EM's epsilon


def test_one_iteration_is_a_convolution():
    capsules, _, weight, *_, scale = random_tensors()
    image = capsules.flatten(3).permute(0, 3, 1, 2)
    kernel = weight.permute(3, 4, 2, 5, 0, 1).flatten(2, 3).flatten(0, 1)
    convolved = torch.nn.functional.conv2d(image, kernel).permute(0, 2, 3, 1).unflatten(3, (OUTPUTS, DIM)) / OUTPUTS
    assert largest_difference([window_dynamic_routing(capsules, weight, iterations=1)], [squash(convolved)]) < 1e-12
    layer = AttentionLayer(weight, scale, 0 * scale)
    normed = torch.nn.functional.layer_norm(convolved, (DIM,), scale)
    assert largest_difference([inverted_attention_routing(capsules, layer, iterations=1)], [normed]) < 1e-12


def test_a_stack_of_one_iteration_is_the_same_concurrently():
    capsules, _, weight, *_, scale = random_tensors(kernel=(2, 2))
    second = torch.randn(2, 2, OUTPUTS, 3, DIM, DIM, dtype=torch.float64)
    layers = [AttentionLayer(weight, scale, 0 * scale), AttentionLayer(second, scale, 0 * scale)]
    results = [inverted_attention_routing(capsules, layers, iterations=1, concurrent=c) for c in (True, False)]
    assert torch.equal(*results)


def test_passes_that_cannot_reach_the_top_change_nothing():
    capsules, _, weight, *_, scale = random_tensors(kernel=(2, 2))
    second = torch.randn(2, 2, OUTPUTS, 3, DIM, DIM, dtype=torch.float64)
    layers = [AttentionLayer(weight, scale, 0 * scale), AttentionLayer(second, scale, 0 * scale)]
    low = layers[0].route(capsules, None)
    values = [low, layers[1].route(low, None)]
    for _ in range(3):
        values = [layers[0].route(capsules, values[0]), layers[1].route(values[0], values[1])]
    received = inverted_attention_routing(capsules, layers, iterations=4)
    assert largest_difference([received], values[1:]) < 1e-12


def test_credit_gives_the_outputs():
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (7,), (4, 5), (5, 6), (4, 6), (6, 5), (4, 5), (4, 5), (7, 4), (7, 4)]
    weights = VectorRoutingWeights(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes))
    inputs = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    beta = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    out, credit = heinsen_2022_routing(inputs, weights, *beta, normalize=False)
    votes = torch.einsum("bid,jd,de->bije", inputs / 7**0.5, weights.vote_input_scale, weights.vote_weight)
    votes = votes + weights.vote_bias
    assert largest_difference([out], [(credit.unsqueeze(-1) * votes).sum(1)]) < 1e-12
    mask = torch.zeros(7, 4, dtype=torch.bool)
    mask[3], mask[5, 1] = True, True
    _, masked = heinsen_2022_routing(inputs, weights, *beta, mask=mask)
    assert masked.isfinite().all()
    assert (masked[:, mask] == 0).all()
    assert (masked[:, ~mask] != 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_never_makes_all_votes(name):
    sizes = {"batch": 4, "height": 7, "width": 7, "kernel": (3, 3), "types": 4, "outputs": 24}
    case = Case(name, **sizes, dtype=torch.float32)
    with LargestTensor() as largest:
        gradients(case(), case.tensors, materialize=True)
    numbers = {"dynamic_child": 9, "em_child": 9, "bayes_diagonal": 9, "bayes_full": max(9, DIM * DIM)}.get(name, DIM)
    assert largest.elements <= 4 * 5 * 5 * 4 * 24 * numbers  # a vote of one offset, or coefficients of all


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_computed_in_float32(name):
    case = Case(name, dtype=torch.float32)
    expected = case()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, case(), expected))
    capsules, *rest = case.tensors
    assert all(part.dtype == torch.bfloat16 for part in case(capsules.bfloat16(), *rest))


@pytest.mark.parametrize("name", METHODS)
def test_takes_a_batch_of_none(name):
    case = Case(name, batch=0)
    assert all(part.shape[0] == 0 for part in case())


@pytest.mark.parametrize("name", METHODS)
def test_traces_without_values(name):
    case = Case(name)
    tensors = [tensor.detach().to("meta") for tensor in case.tensors]
    assert [part.shape for part in case(*tensors)] == [part.shape for part in case()]


def test_errors_name_what_does_not_fit():
    capsules, activations, weight, routing, bias, beta, scale = random_tensors()
    with pytest.raises(ShapeError, match=r"a window of 3 x 2 does not fit a map of 2 x 4"):
        window_dynamic_routing(capsules[:, :2], weight)
    with pytest.raises(ShapeError, match=r"takes 3 types of dimension 4, but capsules .* are 2 types"):
        window_dynamic_routing(capsules[..., :2, :], weight)
    with pytest.raises(ShapeError, match=r"activations must be \(batch, height, width, types\) = \(2, 5, 4, 3\)"):
        self_routing(capsules, activations[:, :3], weight, routing, bias)
    with pytest.raises(ShapeError, match="routing_bias must be"):
        self_routing(capsules, activations, weight, routing, bias[..., :1])
    with pytest.raises(ShapeError, match="scale and offset must be"):
        inverted_attention_routing(capsules, AttentionLayer(weight, scale[:2], scale))
    with pytest.raises(ShapeError, match="beta_v must be"):
        window_em_routing(capsules, activations, weight, beta[:1], beta, pose="vector")
    with pytest.raises(ShapeError, match="takes 3 types of rows of 3"):
        window_em_routing(capsules, activations, weight[..., :3, :3], beta, beta)
    with pytest.raises(ShapeError, match=r"output_bias must be \(outputs, output dim\) = \(4, 4\); received \(4,\)"):
        window_dynamic_routing(capsules, weight, output_bias=beta)
    for options in ({"strides": 0}, {"padding": -1}, {"pose": "row"}, {"iterations": 0}, {"competition": "all"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(options))} must be"):
            window_dynamic_routing(capsules, weight, **options)
