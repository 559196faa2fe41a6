"""The smallest network of each published method and of sequences, as a spec and the changes that make it small."""

from pathlib import Path

INTERESTS = str(Path(__file__).with_name("interests.yaml"))
SMALL_NETWORKS = {
    "deepcaps_digits": ["vars.filters=8", "vars.types=4", "vars.class_dim=8"],
    "efficient_capsnet": [],
    "efficient_capsnet_small_norb": [],
    "em_small_norb": ["vars.filters=8", "vars.primary_types=2", "vars.first_types=3", "vars.second_types=3"],
    "homogeneous_vectors_mnist": ["vars.filters=8", "vars.growth=2"],
    "routing_self_attention": ["vars.types=4"],
    "sequence_capsules": [],
    "sequence_gru": ["model.nodes.memory.units=8"],
    INTERESTS: [],
}


def named(networks):
    """Parameters of a test with short names."""
    return {"argvalues": list(networks), "ids": [Path(name).stem for name in networks]}
