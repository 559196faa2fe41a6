"""Whatever is done to a spec, the answer is a SpecError or a model."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.mutation_run import run
from support.spec_mutations import KINDS

from encapkeras import SpecError, check_spec


@pytest.mark.parametrize(("count", "builds"), [(120, 3), pytest.param(2000, 30, marks=pytest.mark.slow)])
def test_every_mutation_is_a_model_or_a_spec_error(count, builds, tmp_path):
    """`tests/graph/mutate_specs.py` does the same with more."""
    tally = run(range(count), seed=0, folder=tmp_path, builds=builds, count=count)
    assert not tally.failures, tally.failures[0]
    assert tally.count == count
    assert tally.reached_shapes >= count / 3, tally.table()
    assert tally.built == builds
    assert set(tally.kinds) == set(KINDS), tally.table()


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
