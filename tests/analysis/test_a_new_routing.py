"""A routing that a user adds is analysed and drawn like ours: its layer alone says what it is."""

from dataclasses import dataclass

import keras
import torch

from encapkeras.analysis import analyse_routing, plot_iterations, plot_votes
from encapkeras.functional.routing.couplings import Couplings, RoutingRecord
from encapkeras.layers.voting_layer import VotingLayer


class EqualCouplings(Couplings):
    """`c_ij = 1 / J`; the outputs are the means of the votes."""

    def __init__(self, record, capsules):
        votes_BJNPE = torch.einsum("bpnd,njed->bjnpe", capsules, record.weight_NJED)
        self.outputs_BJE = votes_BJNPE.flatten(2, 3).mean(2)
        self.activations_BJ = self.outputs_BJE.norm(dim=-1)

    def of(self, votes_NBPJE):
        return votes_NBPJE.new_full(votes_NBPJE.shape[:-1], 1 / votes_NBPJE.shape[-2])

    def gather(self, votes_NBPJE, shares_NBPJ):
        pass

    def advance(self):
        pass


@dataclass(frozen=True)
class EqualRouting(RoutingRecord):
    kind = "equal"

    def couplings(self, capsules_BPND, activations_BPN):
        return EqualCouplings(self, capsules_BPND)


class EqualCapsules(VotingLayer):
    def __init__(self, capsules, dim, **kwargs):
        options = {"iterations": 1, "share_positions": True, "use_bias": False, "map_types": None}
        super().__init__(capsules, dim, **options, kernel_initializer=None, bias_initializer="zeros", **kwargs)

    def build(self, capsules_shape):
        self.add_vote_weights(capsules_shape)

    def compute_output_shape(self, capsules_shape):
        return self.output_shape(capsules_shape[0])

    def call(self, capsules):
        return self.routing_record().couplings(self.by_position(capsules)[0], None).outputs_BJE

    def routing_record(self):
        return EqualRouting(self.kernel.value, None, self.iterations, "outputs")


def test_it_is_analysed_and_drawn():
    inputs = keras.Input((2, 2, 3, 4))
    outputs = EqualCapsules(5, 6, name="equal")(inputs)
    model = keras.Model(inputs, outputs)
    analysis = analyse_routing(model, torch.rand(4, 2, 2, 3, 4))
    assert {m.routing for m in analysis.measurements} == {"equal"}
    (entropy,) = analysis.select("equal", "coupling_entropy_relative")
    assert abs(entropy.value - 1) < 1e-6
    for plot in (plot_iterations, plot_votes):
        figure = plot([analysis], "equal")
        assert figure.get_suptitle() == "equal: equal routing, 4 images images"
