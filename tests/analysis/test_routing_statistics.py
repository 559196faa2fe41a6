"""The statistics of a routing are those of a literal loop over all votes, and never need all of them."""

import functools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from encapkeras.analysis.routing_statistics import RoutingStatistics
from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.couplings import DynamicRouting, EMRouting

EPSILON = 2.220446049250313e-16
BINS = 21


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dynamic(types=3, outputs=4, dim=5, input_dim=2, bias=True, iterations=3, softmax_over="inputs"):
    weight = random(types, outputs, dim, input_dim, seed=1)
    return DynamicRouting(weight, random(types, outputs, dim, seed=2) if bias else None, iterations, softmax_over)


def em(types=3, outputs=4, dim=5, input_dim=2, bias=True, iterations=3, normalize=False, floor=EPSILON):
    weight, betas = random(types, outputs, dim, input_dim, seed=1), torch.linspace(0.1, 0.9, outputs).double()
    bias = random(types, outputs, dim, seed=2) if bias else None
    return EMRouting(weight, bias, iterations, "outputs", betas, 1 - betas, normalize, floor)


# The loop: one image, lists over output capsules j and input capsules i.


def votes_of(routing, capsules):
    """`votes[j][i]`."""
    positions, types, _ = capsules.shape
    return [
        [
            routing.weight_NJED[n, j] @ capsules[p, n] + (0 if routing.bias_NJE is None else routing.bias_NJE[n, j])
            for n in range(types)
            for p in range(positions)
        ]
        for j in range(routing.weight_NJED.shape[1])
    ]


def dynamic_iterations(routing, votes):
    """For each iteration: couplings, weights of the votes, output capsules, activations."""
    J, I = range(len(votes)), range(len(votes[0]))  # noqa: E741
    logits = [[0.0 for _ in I] for _ in J]
    for _ in range(routing.iterations):
        exp = [[math.exp(logits[j][i]) for i in I] for j in J]
        if routing.softmax_over == "inputs":
            couplings = [[exp[j][i] / sum(exp[j]) for i in I] for j in J]
        else:
            couplings = [[exp[j][i] / sum(exp[k][i] for k in J) for i in I] for j in J]
        sums = [sum(couplings[j][i] * votes[j][i] for i in I) for j in J]
        outputs = [s * s.norm() / (1 + s.norm() ** 2) for s in sums]
        yield couplings, couplings, outputs, [v.norm().item() for v in outputs]
        logits = [[logits[j][i] + (votes[j][i] @ outputs[j]).item() for i in I] for j in J]


def ranged(values):
    return [10 * (value - min(values)) / (max(values) - min(values)) - 5 for value in values]


def em_iterations(routing, votes, active):
    J, I = range(len(votes)), range(len(votes[0]))  # noqa: E741
    couplings = [[1 / len(votes) for _ in I] for _ in J]
    for t in range(routing.iterations):
        shares = [[couplings[j][i] * active[i] for i in I] for j in J]
        means, variances, costs = [], [], []
        for j in J:
            amount = sum(shares[j])
            means.append(sum(shares[j][i] * votes[j][i] for i in I) / (amount + EPSILON))
            squares = sum(shares[j][i] * (votes[j][i] - means[j]) ** 2 for i in I)
            variances.append(squares / (amount + EPSILON))
            costs.append(((variances[j].sqrt().log() + routing.beta_v[j]) * amount).sum().item())
        chances = [1 / (1 + math.exp(-(1 + t) * (routing.beta_a[j] - c))) for j, c in enumerate(ranged(costs))]
        yield couplings, shares, means, chances
        columns = []
        for i in I:
            distances = [((votes[j][i] - means[j]) ** 2 / (2 * variances[j] + EPSILON)).sum().item() for j in J]
            if routing.normalize_distances:
                distances = ranged(distances)
            roots = [(2 * math.pi * variances[j]).prod().sqrt().item() + routing.density_floor for j in J]
            weights = [math.exp(-distances[j]) / roots[j] * chances[j] for j in J]
            columns.append([weight / sum(weights) for weight in weights])
        couplings = [[columns[i][j] for i in I] for j in J]


def expected(routing, capsules, activations=None, labels=None):
    """The figures of all images: `{(iteration, statistic, capsules, bin): (value, count)}`."""
    gathered = {}

    def add(iteration, statistic, role, value, weight=1.0, position=None):
        gathered.setdefault((iteration, statistic, role, position), []).append((value, weight))

    for b in range(len(capsules)):
        votes = votes_of(routing, capsules[b])
        active = [1.0] * len(votes[0]) if activations is None else activations[b].T.flatten().tolist()
        steps = em_iterations(routing, votes, active) if routing.kind == "em" else dynamic_iterations(routing, votes)
        for t, (couplings, shares, outputs, chances) in enumerate(steps, start=1):
            roles = ["all" if labels is None else "target" if j == labels[b] else "other" for j in range(len(votes))]
            over_inputs = routing.softmax_over == "inputs"
            distributions = couplings if over_inputs else list(zip(*couplings, strict=True))
            for j, each in enumerate(distributions):
                role = roles[j] if over_inputs else "all"
                entropy = -sum(c * math.log(c) for c in each if c > 0)
                add(t, "coupling_entropy", role, entropy)
                add(t, "coupling_entropy_relative", role, entropy / math.log(len(each)))
            for j, role in enumerate(roles):
                add(t, "activation", role, chances[j])
                for i, vote in enumerate(votes[j]):
                    cosine = (vote @ outputs[j] / vote.norm() / outputs[j].norm()).item()
                    add(t, "agreement", role, cosine)
                    add(t, "agreement_by_coupling", role, cosine, shares[j][i])
                    position = min(int((cosine + 1) / 2 * BINS), BINS - 1)
                    add(t, "vote_length", role, vote.norm().item(), position=position)
    return {
        key: (sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs), len(pairs))
        for key, pairs in gathered.items()
    }


def measured(routing, capsules, activations=None, labels=None, **options):
    statistics = RoutingStatistics(routing, **options)
    for start in range(0, len(capsules), 3):
        part = slice(start, start + 3)
        statistics.add(
            capsules[part],
            None if activations is None else activations[part],
            None if labels is None else labels[part],
        )
    return statistics.measurements("layer")


def assert_as_expected(routing, capsules, activations=None, labels=None, **options):
    wanted = expected(routing, capsules, activations, labels)
    found = {}
    for m in measured(routing, capsules, activations, labels, **options):
        position = None if m.cosine is None else round((m.cosine + 1) / 2 * BINS - 0.5)
        if m.count == 0:
            assert m.value is None
        else:
            found[m.iteration, m.statistic, m.capsules, position] = (m.value, m.count)
    assert set(found) == set(wanted)
    for key, (value, count) in wanted.items():
        assert found[key][0] == pytest.approx(value, abs=1e-9, rel=1e-9), key
        assert found[key][1] == count, key


LABELS = torch.tensor([1, 3, 0, 2, 1])


@pytest.mark.parametrize("labels", [None, LABELS], ids=["no classes", "classes"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("softmax_over", ["inputs", "outputs"])
def test_dynamic_routing_is_the_loop(softmax_over, bias, labels):
    routing = dynamic(softmax_over=softmax_over, bias=bias)
    assert_as_expected(routing, random(5, 6, 3, 2), labels=labels, chunk_elements=130)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["no classes", "classes"])
@pytest.mark.parametrize("active", [True, False], ids=["activations", "no activations"])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"bias": False}, {"floor": 0.0}, {"floor": 0.5}], ids=str)
def test_em_routing_is_the_loop(options, active, labels):
    activations = random(5, 6, 3, seed=3).abs() if active else None
    assert_as_expected(em(**options), random(5, 6, 3, 2), activations, labels, chunk_elements=130)


@pytest.mark.parametrize("make", [dynamic, em])
def test_matrices_of_their_own_are_types_at_one_position(make):
    assert_as_expected(make(types=7), random(4, 1, 7, 2), chunk_elements=90)


@pytest.mark.parametrize("make", [dynamic, em])
@pytest.mark.parametrize("elements", [1, 20, 61, 250, 10**9])
def test_chunks_do_not_change_the_figures(make, elements):
    assert_as_expected(make(), random(5, 6, 3, 2), labels=LABELS, chunk_elements=elements)


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("make", [dynamic, em])
def test_any_number_of_iterations(make, iterations):
    assert_as_expected(make(iterations=iterations), random(2, 20, 3, 2))


def values(found, statistic, capsules="all"):
    return [m.value for m in found if (m.statistic, m.capsules) == (statistic, capsules)]


@pytest.mark.parametrize(
    ("routing", "number"),
    [(dynamic(), 6 * 3), (dynamic(softmax_over="outputs"), 4), (em(), 4), (em(normalize=True), 4)],
    ids=["inputs", "outputs", "em", "em, normalised"],
)
def test_laws(routing, number):
    found = measured(routing, random(5, 6, 3, 2))
    entropies = values(found, "coupling_entropy")
    assert entropies[0] == pytest.approx(math.log(number), abs=1e-12)
    assert values(found, "coupling_entropy_relative")[0] == pytest.approx(1, abs=1e-12)
    assert max(entropies[1:]) < entropies[0]
    for iteration in (1, 2, 3):
        counts = [m.count for m in found if (m.statistic, m.iteration) == ("vote_length", iteration)]
        assert len(counts) == BINS
        assert sum(counts) == 5 * 6 * 3 * 4
    for statistic in ("agreement", "agreement_by_coupling"):
        assert all(-1 <= value <= 1 for value in values(found, statistic))


def test_votes_that_agree_have_the_cosine_one():
    routing = DynamicRouting(torch.eye(4).double().expand(2, 3, 4, 4).clone(), None, 2, "outputs")
    found = measured(routing, torch.ones(2, 5, 2, 4, dtype=torch.float64))
    assert values(found, "agreement") == pytest.approx([1, 1])
    filled = [m for m in found if m.statistic == "vote_length" and m.count]
    assert [(m.cosine, m.value, m.count) for m in filled] == [(pytest.approx(20 / 21, abs=1e-6), 2.0, 60)] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [dynamic, em])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e4])
def test_extreme_inputs_give_numbers(make, scale, dtype):
    routing = make()
    for name, value in vars(routing).items():
        if isinstance(value, torch.Tensor):
            object.__setattr__(routing, name, value.to(dtype))
    capsules = torch.full((2, 6, 3, 2), scale, dtype=dtype)
    active = torch.zeros(2, 6, 3, dtype=dtype) if make is em else None
    for m in measured(routing, capsules, active):
        if m.count and m.statistic != "agreement_by_coupling":
            assert math.isfinite(m.value), m
    if make is em:  # nothing is active: there is nothing to weight with
        assert values(measured(routing, capsules, active), "agreement_by_coupling") == [None] * 3


@pytest.mark.parametrize("softmax_over", ["inputs", "outputs"])
@pytest.mark.parametrize("outputs", [5, 10])
def test_no_entropy_is_above_that_of_even_couplings(outputs, softmax_over):
    routing = dynamic(types=8, outputs=outputs, dim=16, softmax_over=softmax_over)
    routing = DynamicRouting(routing.weight_NJED.float() / 100, routing.bias_NJE.float() / 100, 3, softmax_over)
    relative = values(measured(routing, random(4, 64, 8, 2).float() / 100), "coupling_entropy_relative")
    assert max(relative) <= 1
    assert relative == pytest.approx([1, 1, 1], abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["input capsules", "input activations", "weights"])
def test_what_is_not_finite_is_refused(what, bad):
    routing, capsules, activations = em(), random(2, 6, 3, 2), random(2, 6, 3).abs()
    {"input capsules": capsules, "input activations": activations, "weights": routing.beta_a}[what].view(-1)[-1] = bad
    with pytest.raises(ArgumentError, match=f"the {what} contain NaN or infinity"):
        RoutingStatistics(routing).add(capsules, activations)


def test_a_single_output_capsule_has_no_relative_entropy():
    found = measured(dynamic(outputs=1, softmax_over="outputs"), random(2, 6, 3, 2))
    assert values(found, "coupling_entropy") == [0, 0, 0]
    assert values(found, "coupling_entropy_relative") == [None] * 3


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize(
    ("make", "positions", "types", "most"),
    [
        (dynamic, 36, 4, 2**16),
        (functools.partial(dynamic, softmax_over="outputs"), 36, 4, 2**16),
        (em, 36, 4, 2**18),  # the votes of some samples are so few that they are made
        (dynamic, 1, 144, 2**16),
    ],
    ids=["over inputs", "over outputs", "em", "unshared"],
)
def test_all_votes_never_exist(make, positions, types, most):
    routing = make(types=types, outputs=20, dim=16, input_dim=4)
    statistics = RoutingStatistics(routing, chunk_elements=2**16)
    with LargestTensor() as largest:
        statistics.add(random(48, positions, types, 4))
    votes = 48 * positions * types * 20 * 16
    assert 2**15 < largest.elements <= max(most, 1.25 * routing.weight_NJED.numel())  # with the bias, a fourth more
    assert largest.elements < votes / (9 if positions == 1 or most > 2**16 else 30)


def test_labels_that_are_no_output_capsules_are_refused():
    statistics = RoutingStatistics(dynamic(outputs=4))
    with pytest.raises(ArgumentError, match="from 0 to 3, one of the 4 output capsules; received 1 to 4"):
        statistics.add(random(2, 6, 3, 2), labels=torch.tensor([1, 4]))
    statistics.add(random(2, 6, 3, 2))
    with pytest.raises(ArgumentError, match="all batches must have labels, or none"):
        statistics.add(random(2, 6, 3, 2), labels=torch.tensor([1, 2]))
