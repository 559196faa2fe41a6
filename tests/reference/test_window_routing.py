"""Routings in windows, and Heinsen's: literal loops equal the authors' code, and the fast functions equal the loops."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden import check, efficient_layers, routing_layers
from support.routing import gradients, largest_difference

from encapkeras import functional
from encapkeras.functional import AttentionLayer, EmOptions, VectorRoutingWeights
from encapkeras.reference import (
    heinsen_loops,
    self_attention_votes,
    window_gaussian_loops,
    window_routing_loops,
    window_routing_votes,
)

LOOPS = SimpleNamespace(
    self_routing=window_routing_loops.self_routing,
    window_dynamic_routing=window_routing_loops.window_dynamic_routing,
    self_attention_routing=window_routing_loops.self_attention_routing,
    inverted_attention_routing=window_routing_loops.inverted_attention_routing,
    window_em_routing=window_gaussian_loops.window_em_routing,
    variational_bayes_routing=window_gaussian_loops.variational_bayes_routing,
    heinsen_2019_routing=heinsen_loops.heinsen_2019_routing,
    heinsen_2022_routing=heinsen_loops.heinsen_2022_routing,
    end_to_end_credit=heinsen_loops.end_to_end_credit,
)

GOLDEN = Path(__file__).parent.parent / "golden"
ROUTINGS = ("sr", "idpa", "vb_class", "vb_conv", "heinsen", "em_conv", "eff_fccaps")  # beginnings of the files' names
SMALL = {
    "sr_hidden_k2s2_nopad",
    "sr_last_whole",
    "srdr_k3s1_t1",
    "srem_k3s1_t1",
    "em_conv_filler_it3",
    "em_conv_stride_it2",
    "idpa_conv_vector_s2_t2",
    "idpa_fc_vector_scalar_t3",
    "idpa_fc_matrix_t2",
    "vb_class_floor_t3",
    "vb_class_full_t1",
    "vb_class_shared_t2_eval",
    "eff_fccaps",
    "heinsen1_skm_t3",
    "heinsen1_variable_both_t3",
    "heinsen2_fixed_t2",
    "heinsen2_scalar_outputs_t2",
    "heinsen2_variable_masked_t2",
}


def files():
    """Files of both folders: small ones, and others for the slow tests."""
    for folder in ("routings_a", "routings_b"):
        for path in check.files(GOLDEN / folder):
            if path.stem.startswith(ROUTINGS):
                yield pytest.param(path, id=path.stem, marks=[] if path.stem in SMALL else pytest.mark.slow)


@pytest.mark.parametrize("path", list(files()))
def test_loops_equal_the_authors_code(path, monkeypatch):
    for name, loops in vars(LOOPS).items():
        for module in (routing_layers, efficient_layers):
            monkeypatch.setattr(module, name, loops, raising=False)
    result = check.check_layer(path)
    assert result.holds, str(result)


class Random:
    """Tensors of random numbers, which are the leaves of gradients."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.leaves = []

    def __call__(self, *shape, scale=1.0, offset=0.0):
        normal = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return self.leaf(offset + scale * normal)

    def between_0_and_1(self, *shape):
        return self.leaf(torch.rand(shape, generator=self.generator, dtype=torch.float64))

    def leaf(self, tensor):
        self.leaves.append(tensor.requires_grad_())
        return tensor


def compare(routing, leaves, reference=LOOPS):
    """Compare the outputs and gradients of `routing(functional)` and `routing(reference)`."""
    received, expected = routing(functional), routing(reference)
    assert largest_difference(received, expected) < 1e-10
    of_leaves = [gradients(outputs, leaves, materialize=True) for outputs in (received, expected)]
    assert largest_difference(*of_leaves) < 1e-10


BATCH, TYPES, OUTPUTS = 2, 3, 2
DIM = {"vector": 4, "matrix": 6}  # of a child; a matrix has 2 rows
WINDOWS = {  # map, window, strides, padding, pose
    "whole": ((2, 3), (2, 3), 1, 0, "matrix"),
    "overlapping": ((3, 3), (2, 2), 1, 0, "vector"),
    "padded": ((3, 2), (2, 3), (2, 1), 1, "matrix"),
    "skipping": ((4, 5), (1, 2), (2, 3), 0, "vector"),
}


class Case:
    """Random weights and children, for one kind of window."""

    def __init__(self, kind, seed):
        size, kernel, strides, padding, self.pose = WINDOWS[kind]
        random, dim, self.kernel = Random(seed), DIM[self.pose], (*kernel, TYPES, OUTPUTS)
        self.window = {"strides": strides, "padding": padding, "pose": self.pose}
        self.capsules = random(BATCH, *size, TYPES, dim)
        self.activations = random.between_0_and_1(BATCH, *size, TYPES)
        self.weight = random(*self.kernel, *((5, 4) if self.pose == "vector" else (3, 2)), scale=0.5)
        self.out_dim = 5 if self.pose == "vector" else 4
        self.random, self.leaves = random, random.leaves

    def map_of_parents(self):
        return functional.window_dynamic_routing(self.capsules, self.weight, iterations=1, **self.window).shape[1:3]


def self_routing(case):
    weights = case.random(*case.kernel, case.capsules.shape[-1]), case.random(*case.kernel)
    return lambda routings: routings.self_routing(case.capsules, case.activations, case.weight, *weights, **case.window)


def last_self_routing(case):
    weights = case.random(*case.kernel, case.capsules.shape[-1]), case.random(*case.kernel)
    return lambda routings: routings.self_routing(case.capsules, case.activations, None, *weights, **case.window)[1:]


def dynamic(competition):
    def make(case):
        arguments = {"competition": competition, **case.window}
        return lambda routings: (routings.window_dynamic_routing(case.capsules, case.weight, **arguments),)

    return make


def biased_dynamic(competition):
    def make(case):
        bias = case.random(OUTPUTS, case.out_dim)
        arguments = {"competition": competition, "output_bias": bias, **case.window}
        return lambda routings: (routings.window_dynamic_routing(case.capsules, case.weight, **arguments),)

    return make


def attention(case):
    norm = case.random(case.out_dim, offset=1), case.random(case.out_dim)
    layer = AttentionLayer(case.weight, *norm, **case.window)
    return lambda routings: (routings.inverted_attention_routing(case.capsules, layer, iterations=3),)


def stack(concurrent):
    def make(case):
        height, width = case.map_of_parents()
        norms = [(case.random(dim, offset=1), case.random(dim)) for dim in (case.out_dim, 3, 2)]
        second = case.random(height, 1, OUTPUTS, 2, 3, case.out_dim)
        top = case.random(1, width, 2, 2, 2, 3)
        layers = [
            AttentionLayer(case.weight, *norms[0], **case.window),
            AttentionLayer(second, *norms[1]),
            AttentionLayer(top, *norms[2]),
        ]
        arguments = {"iterations": 3, "concurrent": concurrent}
        return lambda routings: (routings.inverted_attention_routing(case.capsules, layers, **arguments),)

    return make


def self_attention(with_bias):
    def make(case):
        bias = case.random(*case.kernel) if with_bias else None
        return lambda routings: (routings.self_attention_routing(case.capsules, case.weight, bias, **case.window),)

    return make


def em(competition, **options):
    def make(case):
        betas = case.random(OUTPUTS), case.random(OUTPUTS)
        arguments = {"competition": competition, "options": EmOptions(**options), **case.window}
        return lambda routings: routings.window_em_routing(
            case.capsules, case.activations, case.weight, *betas, **arguments
        )

    return make


def em_with_fillers(case):
    """Votes so far from 0 that their densities are near those of fillers, and alike, unlike those of padding."""
    betas = case.random(OUTPUTS), case.random(OUTPUTS)
    arguments = {"options": EmOptions(final_lambda=0.1, fillers=True), **case.window}
    return lambda routings: routings.window_em_routing(
        1e10 * (1 + 0.1 * case.capsules), case.activations, 1 + 0.1 * case.weight, *betas, **arguments
    )


def bayes(with_offsets=False, **options):
    def make(case):
        arguments = {**options, **case.window}
        if with_offsets:
            arguments["offsets"] = case.random(*case.kernel[:2], case.out_dim)
            arguments["parent_offsets"] = case.random(*case.map_of_parents(), case.out_dim)
        return lambda routings: routings.variational_bayes_routing(
            case.capsules, case.activations, case.weight, **arguments
        )

    return make


METHODS = {
    "self-routing": self_routing,
    "self-routing, last": last_self_routing,
    "dynamic, of a position": dynamic("position"),
    "dynamic, of a child": dynamic("child"),
    "dynamic, of a position, biased": biased_dynamic("position"),
    "dynamic, of a child, biased": biased_dynamic("child"),
    "attention": attention,
    "attention, sequential stack": stack(concurrent=False),
    "attention, concurrent stack": stack(concurrent=True),
    "self-attention": self_attention(with_bias=True),
    "self-attention, no bias": self_attention(with_bias=False),
    "EM, of a position": em("position", final_lambda=0.1, normalize_cost=False),
    "EM, of a child": em("child", final_lambda=0.1),
    "EM, of a child, fillers": em_with_fillers,
    "Bayes, diagonal": bayes(with_offsets=True, density_floor=0.01),
    "Bayes, full": bayes(covariance="full", density_floor=0, iterations=2),
}


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("method", METHODS)
def test_fast_routing_in_windows_equals_loops(method, kind):
    case = Case(kind, seed=list(WINDOWS).index(kind))
    compare(METHODS[method](case), case.leaves)


WITH_VOTES = {
    **{name: METHODS[name] for name in METHODS if name.startswith(("self-routing", "dynamic", "EM"))},
    "attention": attention,
    "EM, of a position, all ones": em("position", initial="one"),
    "Bayes, diagonal": bayes(density_floor=0.01),
    "Bayes, no floor": bayes(density_floor=0),
}
del WITH_VOTES["self-routing, last"], WITH_VOTES["EM, of a child, fillers"]


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("method", WITH_VOTES)
def test_fast_routing_in_windows_equals_that_with_votes(method, kind):
    case = Case(kind, seed=list(WINDOWS).index(kind))
    compare(WITH_VOTES[method](case), case.leaves, window_routing_votes)


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_self_attention_equals_that_with_votes(with_bias, kind):
    case = Case(kind, seed=8)
    compare(self_attention(with_bias)(case), case.leaves, self_attention_votes)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("density", ["gaussian", "skm"])
def test_heinsen_2019_equals_loops(density, shared):
    random = Random(seed=5)
    inputs, outputs = 5, 3
    of_pairs = (1, outputs) if shared else (inputs, outputs)
    scores = torch.randn(2, inputs, generator=random.generator, dtype=torch.float64)
    scores[0, 1], scores[1, 0] = -torch.inf, torch.inf
    random.leaf(scores)
    matrices, weight, bias = random(2, inputs, 2, 3), random(*of_pairs, 3, 4), random(*of_pairs, 2, 4)
    betas = random(*of_pairs), random(1, 1)
    compare(
        lambda routings: routings.heinsen_2019_routing(scores, matrices, weight, bias, *betas, density=density),
        random.leaves,
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("out_dim", [1, 4])
@pytest.mark.parametrize("partial", [False, True])
def test_heinsen_2022_equals_loops(shared, out_dim, partial):
    random = Random(seed=6)
    inputs, outputs, dim = 5, 3, 4
    own = 1 if shared else inputs
    shapes = [(own, dim), (own,), (outputs, dim), (dim, out_dim), (outputs, out_dim), (out_dim, dim)]
    shapes += [(outputs, dim), (outputs, dim), (own, outputs), (own, outputs)]
    x, weights = random(2, inputs, dim), VectorRoutingWeights(*(random(*shape) for shape in shapes))
    betas = random(2, inputs, outputs), random(inputs, outputs)
    arguments = {"iterations": 3}
    if partial:
        mask = torch.rand(2, inputs, outputs, generator=random.generator) < 0.4
        mask[1, 2] = True
        arguments = {"normalize": False, "mask": mask, "length": torch.tensor([5, 4])}
    compare(lambda routings: routings.heinsen_2022_routing(x, weights, *betas, **arguments), random.leaves)


@pytest.mark.parametrize("of_sample", [True, False])
def test_end_to_end_credit_equals_loops(of_sample):
    random = Random(seed=7)
    credits = [random(2, 4, 3).detach(), random(2, 3, 5).detach(), random(2, 5, 2).detach()]
    received = functional.end_to_end_credit(credits, of_sample=of_sample)
    assert largest_difference([received], [LOOPS.end_to_end_credit(credits, of_sample=of_sample)]) < 1e-12
