"""Names that have moved are still found under their old ones, with a warning."""

import importlib
import inspect

import pytest

import encapkeras
import encapkeras.graph
from encapkeras import model, spec, summary


@pytest.mark.parametrize("name", encapkeras.graph.__all__)
def test_every_name_of_graph_is_the_new_object_and_warns_once(name):
    with pytest.warns(DeprecationWarning) as warned:
        old = getattr(encapkeras.graph, name)
    [room] = [room for room in (model, spec, summary) if name in room.__all__]
    assert old is getattr(room, name)
    assert [str(each.message) for each in warned] == [f"encapkeras.graph.{name} is now {room.__name__}.{name}"]
    assert warned[0].filename == __file__


def test_what_graph_never_had_is_an_error():
    with pytest.raises(AttributeError, match=r"module 'encapkeras\.graph' has no attribute 'Node'"):
        encapkeras.graph.Node  # noqa: B018


def test_compare_is_no_longer_of_training_and_warns_once():
    with pytest.warns(DeprecationWarning) as warned:
        from encapkeras.training import compare
    assert compare is encapkeras.compare is encapkeras.comparison.compare
    assert {str(each.message) for each in warned} == {"encapkeras.training.compare is now encapkeras.compare"}
    assert inspect.isfunction(compare)
    training = importlib.import_module("encapkeras.training")
    with pytest.raises(AttributeError, match=r"module 'encapkeras\.training' has no attribute 'comparison'"):
        training.comparison  # noqa: B018
