"""Messages speak of lists and maps, as a spec file has them, not of Python's types."""

from collections.abc import Sequence

import pytest

from encapkeras.spec.train_settings import TrainSettings
from encapkeras.validation import Checker


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (Sequence[int], 64, "must be a list; received 64"),
        (list[int], 64, "must be a list; received 64"),
        (dict[str, int], 64, "must be a map; received 64"),
        (TrainSettings, 64, "must be a map; received 64"),
        (TrainSettings, {"analysis": 64}, "must be a map; received 64"),
        (TrainSettings, {"optimizer": 64}, "must be a map; received 64"),
    ],
)
def test_lists_and_maps(annotation, value, text):
    (problem,) = Checker(annotation).problems(value)
    assert problem.text == text
