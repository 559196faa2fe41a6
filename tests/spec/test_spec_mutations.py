"""Whatever is done to a spec, the answer is a SpecError or a model."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import mutation_run
from support.mutation_run import run
from support.spec_mutations import KINDS, mutation

from encapkeras import SpecError, check_spec


@pytest.mark.parametrize(("count", "builds"), [(130, 3), pytest.param(1000, 15, marks=pytest.mark.slow)])
def test_every_mutation_is_a_model_or_a_spec_error(count, builds, tmp_path):
    """`tests/spec/mutate_specs.py` does the same with more."""
    tally = run(range(count), seed=0, folder=tmp_path, builds=builds, count=count)
    assert not tally.failures, tally.failures[0]
    assert tally.count == count
    assert tally.reached_shapes >= count / 3, tally.table()
    assert tally.built == builds
    assert set(tally.kinds) == set(KINDS), tally.table()


def test_a_crash_is_told_with_its_spec_and_number(monkeypatch, tmp_path):
    def crash(source, overrides):
        raise KeyError("a bug")

    monkeypatch.setattr(mutation_run, "examine_spec", crash)
    tally = run([7], seed=0, folder=tmp_path)
    assert tally.outcomes == {mutation_run.FAILED: 1}
    (failure,) = tally.failures
    assert failure.startswith("number 7, seed 0, from ")
    assert "KeyError: 'a bug'" in failure
    assert "encapkeras/1" in failure  # the spec


def test_a_check_without_end_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(mutation_run, "LONGEST", 1)
    monkeypatch.setattr(mutation_run, "examine_spec", lambda source, overrides: time.sleep(30))
    assert "TooSlow: after 1 s" in run([7], seed=0, folder=tmp_path).failures[0]


def test_a_number_is_always_the_same_spec():
    assert mutation(3, 14) == mutation(3, 14)
    assert mutation(3, 14) != mutation(3, 15)


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.binary(max_size=200), st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,? \n\t$()1.e", max_size=80).map(str.encode)
    )
)
def test_any_file_is_a_spec_error(tmp_path, content):
    for name in ("any.yaml", "any.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SpecError):
            check_spec(tmp_path / name)
