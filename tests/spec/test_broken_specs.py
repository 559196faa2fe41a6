"""Every spec in broken/ gives exactly the report in the file beside it.

After a deliberate change of a message: `python tests/spec/test_broken_specs.py` writes the reports anew, to be read
before they are committed.
"""

import os
import re
import sys
from pathlib import Path

import pytest

from encapkeras import SpecError, check_spec
from encapkeras.spec.first_look import first_look

BROKEN = Path(__file__).parent / "broken"
_PYYAML = re.compile(r"(?<=invalid YAML: )(.*) \(.*\)$", re.MULTILINE)  # its words differ between versions
SPECS = sorted([*BROKEN.glob("*.yaml"), *BROKEN.glob("*.json")])


def report_on(spec):
    """The report as a user in the folder of the spec sees it."""
    with pytest.raises(SpecError) as caught:
        check_spec(spec.name)
    return _PYYAML.sub(r"\1", f"{caught.value}\n")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_report_is_exact(spec, monkeypatch):
    monkeypatch.chdir(BROKEN)
    assert report_on(spec) == spec.with_suffix(".txt").read_text()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_look_without_keras_finds_nothing_else(spec, monkeypatch):
    monkeypatch.chdir(BROKEN)
    look = first_look(spec.name, shapes=True)
    found = set(map(str, look.error.problems)) if look.error else set()
    with pytest.raises(SpecError) as caught:
        check_spec(spec.name)
    everything = set(map(str, caught.value.problems))
    assert found == everything if look.is_all else found <= everything


def test_no_report_is_left_over():
    assert {spec.stem for spec in SPECS} == {report.stem for report in BROKEN.glob("*.txt")}


def test_twenty_mistakes_of_different_kinds_are_all_told_and_each_in_its_line(monkeypatch):
    monkeypatch.chdir(BROKEN)
    with pytest.raises(SpecError) as caught:
        check_spec("twenty.yaml")
    assert len({problem.line for problem in caught.value.problems}) == len(caught.value.problems) == 20


if __name__ == "__main__":
    os.chdir(BROKEN)
    for path in [path for path in SPECS if path.stem in (sys.argv[1:] or path.stem)]:
        path.with_suffix(".txt").write_text(report_on(path))
