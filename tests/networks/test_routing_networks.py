"""The networks of published routings, built from their specs, equal their authors': outputs, losses and gradients."""

from pathlib import Path

import pytest
from golden import check

GOLDEN = Path(__file__).parent.parent / "golden"
FILES, OTHERS = (
    [path for folder in ("routings_a", "routings_b") for path in check.network_files(GOLDEN / folder)[part]]
    for part in (0, 1)
)


def test_every_network_with_golden_numbers_is_here():
    assert len(FILES) == 23
    assert not OTHERS


def case(path):
    is_fast = path.stem.startswith(("sr_convnet", "vb_", "em_", "eff_", "deep_28", "hvc_"))
    return pytest.param(path, id=path.stem, marks=[] if is_fast else pytest.mark.slow)


@pytest.mark.parametrize("path", [case(path) for path in FILES])
def test_network_equals_its_authors(path):
    result = check.check_network(path)
    assert result.holds, str(result)
