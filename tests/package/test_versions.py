"""The versions that pyproject.toml allows are those that tests run with."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / "tests" / "oldest_versions.txt"

NOT_FOR_TESTS = {"build", "encapkeras", "hatchling", "mypy", "pre-commit", "ruff", "types-pyyaml"}


def normalized(version):
    """A version as numbers, `2.9` and `2.9.0` alike."""
    numbers = [int(number) for number in version.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [
        each for group in ("bench", "fast", "hub", "onnx", "search", "test") for each in extras[group]
    ] + project["dependencies"]
    bounds = dict(re.match(r"([\w-]+)(?:\[.*\])?(?:>=([\d.]+))?$", each).groups() for each in requirements)
    wanted = {name.lower(): bound for name, bound in bounds.items() if name.lower() not in NOT_FOR_TESTS}
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", OLDEST.read_text(encoding="utf-8"), re.MULTILINE))
    oldest = {name.lower(): normalized(version) for name, version in pinned.items()}
    assert oldest == {name: normalized(bound) for name, bound in wanted.items()}
