"""What holds for all routings and capsules without routing, whatever the sizes: orders, samples, sums, edge cases.

Shape suffixes: I children, J parents, E dimension of both.
"""

import hypothesis
import pytest
import torch
from hypothesis import strategies
from support.routing import largest_difference

from encapkeras.functional import (
    EmOptions,
    NormWeights,
    capsule_length,
    dynamic_routing,
    homogeneous_vector_capsules,
    window_dynamic_routing,
    window_em_routing,
)
from encapkeras.reference import window_routing_votes
from encapkeras.reference.window_routing_votes import Trace, Windows

SIZES = strategies.fixed_dictionaries(
    {name: strategies.integers(1, most) for name, most in (("children", 6), ("parents", 4), ("iterations", 3))}
)
EXAMPLES = hypothesis.settings(max_examples=15, deadline=None)
DIM = 4


class List:
    """A list of children with a matrix, an activation, and coordinates for each."""

    def __init__(self, children, parents, iterations, batch=2):
        torch.manual_seed(children + 10 * parents)
        self.iterations = iterations
        self.children = torch.randn(batch, children, DIM).double()
        self.activations = torch.rand(batch, children).double()
        self.weight_IJEE = torch.randn(children, parents, DIM, DIM).double()
        self.places_IE = torch.rand(children, DIM).double()
        self.bias_JE = torch.randn(parents, DIM).double()

    def of_one_map(self):
        """The same with one matrix for all children."""
        self.weight_IJEE = self.weight_IJEE[:1].expand_as(self.weight_IJEE)
        return self

    def ordered(self, order):
        """The children in another order, with all that is theirs."""
        for name in ("weight_IJEE", "places_IE"):
            setattr(self, name, getattr(self, name)[order])
        for name in ("children", "activations"):
            setattr(self, name, getattr(self, name)[:, order])
        return self


def own_matrices(given):
    """Agreement of children that have their own matrices."""
    options = {"iterations": given.iterations, "softmax_over": "outputs", "output_bias": given.bias_JE}
    return dynamic_routing(given.children.unsqueeze(1), given.weight_IJEE, **options)


def shared_matrices(given):
    """Agreement of the positions of one type."""
    options = {"iterations": given.iterations, "softmax_over": "outputs", "output_bias": given.bias_JE}
    return dynamic_routing(given.children.unsqueeze(2), given.weight_IJEE[:1], **options)


def window(given):
    """Agreement of the types of one position."""
    options = {"iterations": given.iterations, "output_bias": given.bias_JE}
    return window_dynamic_routing(given.children[:, None, None], given.weight_IJEE[None, None], **options)


def uniform(given):
    options = {"iterations": 1, "output_bias": given.bias_JE}
    return window_dynamic_routing(given.children[:, None, None], given.weight_IJEE[None, None], **options)


def one_map(given):
    options = {"iterations": 1, "output_bias": given.bias_JE, "window": 1}
    return window_dynamic_routing(given.children[:, None, None], given.weight_IJEE[None, None, :1], **options)


def em(given):
    """The class layer of matrix capsules: a row of children, with coordinates."""
    parents = given.weight_IJEE.shape[1]
    weight = given.weight_IJEE[None, :, None, :, :2, :2]
    betas = torch.zeros(2, parents).double()
    maps = given.children[:, None, :, None], given.activations[:, None, :, None]
    options = {"iterations": given.iterations, "offsets": given.places_IE[None], "options": EmOptions()}
    return window_em_routing(*maps, weight, *betas, **options)[0]


def homogeneous(given):
    weight = given.weight_IJEE.sum(3).permute(2, 0, 1)
    return homogeneous_vector_capsules(given.children, weight, norm_of(given.bias_JE[0]), training=False)


def homogeneous_in_training(given):
    weight = given.weight_IJEE.sum(3).permute(2, 0, 1)
    return homogeneous_vector_capsules(given.children, weight, norm_of(given.bias_JE[0]), training=True)


def norm_of(offset):
    return NormWeights(torch.ones(DIM).double(), offset, torch.zeros(DIM).double(), torch.ones(DIM).double())


OF_SAMPLES = [own_matrices, window, uniform, em, homogeneous]  # where a sample does not depend on its batch
OF_LISTS = [*OF_SAMPLES, homogeneous_in_training]
SHARED = [shared_matrices, one_map]


@EXAMPLES
@hypothesis.given(sizes=SIZES, data=strategies.data())
@pytest.mark.parametrize("route", OF_LISTS)
def test_the_order_of_children_and_their_weights_does_not_matter(route, sizes, data):
    order = torch.tensor(data.draw(strategies.permutations(range(sizes["children"]))))
    assert largest_difference([route(List(**sizes).ordered(order))], [route(List(**sizes))]) < 1e-10


@EXAMPLES
@hypothesis.given(sizes=SIZES, data=strategies.data())
@pytest.mark.parametrize("route", SHARED)
def test_the_order_of_children_of_one_matrix_does_not_matter(route, sizes, data):
    order = torch.tensor(data.draw(strategies.permutations(range(sizes["children"]))))
    assert largest_difference([route(List(**sizes).of_one_map().ordered(order))], [route(List(**sizes))]) < 1e-10


@EXAMPLES
@hypothesis.given(sizes=SIZES)
@pytest.mark.parametrize("route", [*OF_SAMPLES, *SHARED])
def test_a_sample_does_not_depend_on_its_batch(route, sizes):
    given = List(**sizes)
    both = route(given)
    given.children, given.activations = given.children[1:], given.activations[1:]
    assert largest_difference([route(given)], [both[1:]]) < 1e-10


@pytest.mark.parametrize("kind", ["random", "zeros", "no activations"])
@pytest.mark.parametrize(("batch", "children", "parents"), [(1, 1, 1), (1, 5, 2), (2, 1, 3), (2, 4, 1)])
@pytest.mark.parametrize("route", [*OF_LISTS, *SHARED])
def test_values_and_gradients_are_finite(route, batch, children, parents, kind):
    given = List(children, parents, iterations=3, batch=batch)
    if kind == "zeros":
        given.children, given.bias_JE = torch.zeros_like(given.children), torch.zeros_like(given.bias_JE)
    elif kind == "no activations":
        given.activations = torch.zeros_like(given.activations)
    leaves = [part.requires_grad_() for part in (given.children, given.weight_IJEE, given.bias_JE)]
    lengths = capsule_length(route(given))
    assert lengths.isfinite().all()
    gradients = torch.autograd.grad(lengths.sum(), leaves, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)


def coefficients(routing, competition, iterations):
    """Return the coefficients of the last iteration `(I, M, J)`, and the child of each `(I, M)`."""
    torch.manual_seed(0)
    capsules, weight = torch.randn(2, 5, 4, 2, 4).double(), torch.randn(3, 2, 2, 3, 2, 2).double()
    options = {"iterations": iterations, "competition": competition, "pose": "matrix", "trace": Trace()}
    if routing == "dynamic":
        bias = torch.randn(3, 4).double()
        window_routing_votes.window_dynamic_routing(capsules, weight, output_bias=bias, **options)
    else:
        betas = torch.zeros(2, 3).double()
        activations = torch.rand(2, 5, 4, 2).double()
        window_routing_votes.window_em_routing(capsules, activations, weight, *betas, options=EmOptions(), **options)
    number_BHWN = torch.arange(capsules[..., 0].numel()).view(capsules.shape[:4])
    share_IMJ = options["trace"].states[-1][0]
    return share_IMJ.expand(-1, -1, 3), Windows((3, 2), 1, 0).children(number_BHWN)


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_coefficients_sum_to_1_over_the_parents_of_a_position(routing, iterations):
    share_IMJ, _ = coefficients(routing, "position", iterations)
    assert (share_IMJ.sum(2) - 1).abs().max() < 1e-8  # but for EM's epsilon in the first iteration


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_coefficients_sum_to_1_over_all_parents_of_a_child(routing, iterations):
    share_IMJ, child_IM = coefficients(routing, "child", iterations)
    total = torch.zeros(int(child_IM.max()) + 1).double()
    total.index_add_(0, child_IM.flatten(), share_IMJ.sum(2).flatten())
    assert (total - 1).abs().max() < 1e-8
