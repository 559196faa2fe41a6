"""From a model and images to figures: which layers, which capsules, and that they are what the layers did."""

import csv

import keras
import numpy as np
import pytest
import torch
from support.routing_spec import routing_spec

import encapkeras
from encapkeras import analyse_routing, build_model
from encapkeras.analysis import read_csv, routing_layers, write_csv
from encapkeras.errors import ArgumentError, DataError
from encapkeras.layers import CapsuleLength, DynamicCapsules, EmCapsules, VotingLayer

LABELS = np.array([3, 1, 4, 1, 5, 9, 2])


@pytest.fixture(scope="module")
def images():
    return torch.rand(7, 32, 32, 1, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build_model(routing_spec())


@pytest.fixture(scope="module")
def analysis(model, images):
    return analyse_routing(model, images, LABELS)


def small_model(layer, activations=False):
    """One routing layer on maps of capsules."""
    keras.utils.set_random_seed(0)
    capsules = keras.Input((3, 4, 2, 5))
    inputs = (
        [capsules, keras.layers.Lambda(lambda x: keras.ops.norm(x, axis=-1))(capsules)] if activations else capsules
    )
    return keras.Model(capsules, CapsuleLength(name="lengths")(layer(inputs)))


def maps(count=7):
    return torch.randn(count, 3, 4, 2, 5, generator=torch.Generator().manual_seed(1))


def last(analysis, layer, statistic, capsules=None):
    return analysis.select(layer, statistic, capsules)[-1].value


def test_every_routing_layer_is_analysed(model, analysis):
    assert [layer.name for layer in routing_layers(model)] == ["middle", "digits"]
    assert analysis.layers == ("middle", "digits")
    assert analysis.images == 7
    iterations = {m.layer: m.iteration for m in analysis.measurements}
    assert iterations == {"middle": 2, "digits": 3}
    assert {m.layer: m.routing for m in analysis.measurements} == {"middle": "dynamic", "digits": "em"}


def test_classes_are_told_apart_where_the_outputs_are_classes(analysis, model, images):
    assert {m.capsules for m in analysis.select("middle", "agreement")} == {"all"}
    assert [m.capsules for m in analysis.select("digits", "agreement")] == ["target", "other"] * 3
    assert {m.capsules for m in analyse_routing(model, images).measurements} == {"all"}


def test_a_map_of_as_many_capsules_as_classes_is_no_list_of_classes():
    layer = DynamicCapsules(capsules=8, dim=4, map_types=2, name="map")
    inputs = keras.Input((3, 4, 2, 5))
    scores = keras.layers.Dense(8)(keras.layers.Flatten()(layer(inputs)))
    found = analyse_routing(keras.Model(inputs, scores), maps(), labels=LABELS % 8)
    assert {m.capsules for m in found.measurements} == {"all"}


@pytest.mark.parametrize("share", [True, False], ids=["shared", "unshared"])
@pytest.mark.parametrize("softmax_over", ["inputs", "outputs"])
def test_the_last_dynamic_activations_are_the_lengths_that_the_network_gives(softmax_over, share):
    layer = DynamicCapsules(10, 6, softmax_over=softmax_over, share_positions=share, use_bias=share, name="digits")
    model = small_model(layer)
    found = analyse_routing(model, maps(), LABELS, batch_size=3)
    lengths = model.predict(maps(), verbose=0)
    of_class = lengths[np.arange(7), LABELS]
    assert last(found, "digits", "activation", "target") == pytest.approx(of_class.mean(), rel=1e-5)
    others = (lengths.sum() - of_class.sum()) / (7 * 9)
    assert last(found, "digits", "activation", "other") == pytest.approx(others, rel=1e-5)


@pytest.mark.parametrize("activations", [True, False])
@pytest.mark.parametrize("share", [True, False], ids=["shared", "unshared"])
def test_the_last_em_activations_are_those_of_the_layer(share, activations):
    layer = EmCapsules(10, 6, share_positions=share, normalize_distances=True, name="digits")
    model = small_model(layer, activations)
    found = analyse_routing(model, maps(), LABELS)
    given = [maps(), maps().norm(dim=-1)] if activations else maps()
    chances = layer(given, return_ports=True)["activations"].detach().numpy()
    assert last(found, "digits", "activation", "target") == pytest.approx(
        chances[np.arange(7), LABELS].mean(), rel=1e-5
    )


def test_how_many_at_once_does_not_matter(model, images, analysis):
    again = analyse_routing(model, images, torch.tensor(LABELS), batch_size=2, chunk_elements=2000)
    for one, other in zip(analysis.measurements, again.measurements, strict=True):
        if one.cosine is None:  # rounding may move a vote to the next bin
            assert one.value == pytest.approx(other.value, rel=1e-3, abs=1e-5)
            assert one.count == other.count


def test_the_network_stays_as_it_is(model, images):
    before = [weight.value.detach().clone() for weight in model.weights]
    analyse_routing(model, images, LABELS)
    assert all((old == new.value).all() for old, new in zip(before, model.weights, strict=True))


def test_a_loaded_model_gives_the_same(model, images, analysis, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = encapkeras.load_model(tmp_path / "model.keras")
    assert analyse_routing(loaded, images, LABELS) == analysis


def test_half_precision_is_analysed_in_single():
    layer = DynamicCapsules(10, 6, name="digits", dtype="mixed_float16")
    found = analyse_routing(small_model(layer), maps(), LABELS)
    assert last(found, "digits", "coupling_entropy_relative", "target") == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([1, 2], "one whole number for each of the 7 images; received torch.int64 of shape (2,)"),
        (np.eye(7), "received torch.float64 of shape (7, 7)"),
        (LABELS + 0.5, "one whole number for each"),
        (LABELS + 1, "from 0 to 9, one of the 10 output capsules; received 2 to 10"),
    ],
)
def test_labels_that_do_not_fit(model, images, labels, text):
    with pytest.raises(ArgumentError) as caught:
        analyse_routing(model, images, labels)
    assert text in str(caught.value)


def test_what_cannot_be_analysed(model, images):
    with pytest.raises(ArgumentError, match=r"'quickstart' has no routing layer.*dynamic_capsules, em_capsules"):
        analyse_routing(build_model("quickstart"), images)
    with pytest.raises(ArgumentError, match=r"Functional Keras model with one input.*received DynamicCapsules"):
        analyse_routing(DynamicCapsules(2, 2), images)
    with pytest.raises(ArgumentError, match="no images"):
        analyse_routing(model, images[:0])
    with pytest.raises(ArgumentError, match="no images"):
        analyse_routing(model, images[:0], [])
    with pytest.raises(ArgumentError, match="at least 1; received 0"):
        analyse_routing(model, images, batch_size=0)


@pytest.mark.parametrize("shape", [(7, 1, 32, 32), (7, 32, 32, 3), (32, 32, 1), (7, 32, 32), ()], ids=str)
def test_images_of_another_shape(model, shape):
    with pytest.raises(ArgumentError) as caught:
        analyse_routing(model, np.zeros(shape), LABELS)
    assert str(caught.value) == (
        f"images must have the shape (B, 32, 32, 1) that network 'routed' takes; received {shape}"
    )


def test_images_of_any_size_where_the_network_takes_them():
    inputs = keras.Input((None, None, 2, 5))
    model = keras.Model(inputs, CapsuleLength()(DynamicCapsules(10, 4, name="digits")(inputs)))
    assert analyse_routing(model, maps().numpy(), LABELS).layers == ("digits",)


def test_capsules_that_are_not_finite_name_their_layer():
    capsules = maps()
    capsules[6, 2, 3, 1, 4] = torch.nan
    with pytest.raises(ArgumentError, match="layer 'digits': the input capsules contain NaN or infinity"):
        analyse_routing(small_model(DynamicCapsules(10, 6, name="digits")), capsules, batch_size=3)


def test_a_layer_that_is_called_twice_is_refused():
    layer = DynamicCapsules(10, 6, name="digits")
    one, two = keras.Input((3, 4, 2, 5)), keras.layers.Lambda(lambda x: -x)
    model = keras.Model(one, keras.layers.Add()([layer(one), layer(two(one))]), name="both")
    with pytest.raises(ArgumentError, match="layer 'digits' is called 2 times in network 'both'"):
        analyse_routing(model, maps())


def test_a_layer_of_several_networks_is_analysed_in_each():
    layer = DynamicCapsules(10, 6, name="digits")
    first = small_model(layer)
    inputs = keras.Input((3, 4, 2, 5))
    second = keras.Model(inputs, CapsuleLength()(layer(keras.layers.Rescaling(0.5)(inputs))))
    of_second = analyse_routing(second, maps())
    assert of_second == analyse_routing(first, maps() / 2)
    assert of_second != analyse_routing(first, maps())


def test_models_inside_a_model_are_not_looked_into():
    inner = small_model(DynamicCapsules(10, 6, name="digits"))
    inner.name = "inner"
    inputs = keras.Input((3, 4, 2, 5))
    outer = keras.Model(inputs, inner(inputs), name="outer")
    with pytest.raises(ArgumentError, match=r"'inner' inside 'outer' has routing layers.*not looked into"):
        analyse_routing(outer, maps())


def test_the_table_is_tidy_and_comes_back(analysis, tmp_path):
    analysis.to_csv(tmp_path / "routing.csv")
    with (tmp_path / "routing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(analysis.measurements)
    assert set(rows[0]) == {
        *("checkpoint", "split", "images", "layer", "routing", "iteration"),
        *("statistic", "capsules", "cosine", "value", "count"),
    }
    assert read_csv(tmp_path / "routing.csv") == [analysis]


def test_several_analyses_in_one_table(analysis, tmp_path):
    both = [analysis, encapkeras.analysis.RoutingAnalysis("last", "test", 7, analysis.measurements[:3])]
    write_csv(tmp_path / "routing.csv", both)
    assert read_csv(tmp_path / "routing.csv") == both


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: "", "is not a table of a routing analysis"),
        (lambda text: text.replace("digits", "\udcff"), "is not a table of a routing analysis: 'utf-8' codec"),
        (lambda text: text.replace("checkpoint,", "weights,"), "its columns are weights, split"),
        (lambda text: text[:-20], "line 3, is not a row of a routing analysis"),
        (lambda text: text.replace("0.5", "a half", 1), "line 2, is not a row"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, change, text):
    rows = "checkpoint,split,images,layer,routing,iteration,statistic,capsules,cosine,value,count\n"
    rows += "best,test,7,digits,em,1,activation,target,,0.5,7\nbest,test,7,digits,em,1,activation,other,,0.25,63\n"
    (tmp_path / "routing.csv").write_bytes(change(rows).encode(errors="surrogateescape"))
    with pytest.raises(DataError) as caught:
        read_csv(tmp_path / "routing.csv")
    assert text in str(caught.value)


def test_a_routing_layer_without_a_record_is_refused_before_it_is_analysed():
    class Own(VotingLayer):
        """A routing without a record."""

        def call(self, capsules):
            return keras.ops.zeros((capsules.shape[0], self.capsules, self.dim))

    inputs = keras.Input((2, 2, 3, 4))
    options = {"iterations": 1, "share_positions": True, "use_bias": False, "map_types": None}
    initializers = {"kernel_initializer": None, "bias_initializer": "zeros"}
    model = keras.Model(inputs, Own(capsules=3, dim=4, name="own", **options, **initializers)(inputs))
    with pytest.raises(ArgumentError, match=r"layer 'own' \(class Own\) cannot be analysed: it has no method"):
        routing_layers(model)
