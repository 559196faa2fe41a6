"""The computed figures of docs/scaling.md are those that `encapkeras show` computes."""

import json
import re
from pathlib import Path

import pytest

from encapkeras.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
ROWS = re.findall(
    r"^\| (`[^|]*`) \| ([\d,]+) MiB \| ([\d,]+) MiB \| ([\d.]+) MB \| ([\d.]+) T \|$", PAGE.read_text(), re.MULTILINE
)


def test_the_table_is_found():
    assert len(ROWS) == 7


@pytest.mark.parametrize(("names", "whole", "share", "gradients", "operations"), ROWS)
def test_a_row_is_what_show_computes(names, whole, share, gradients, operations, capsys):
    for name in re.findall(r"`(\w+)`", names):
        for batch, memory in ((128, whole), (16, share)):
            assert main(["show", name, "--json", "--batch", str(batch), "--device", "cuda"]) == 0
            shown = json.loads(capsys.readouterr().out)
            assert f"{shown['memory_bytes']['total'] / 2**20:,.0f}" == memory
        assert f"{4 * shown['parameters'] / 1e6:.1f}" == gradients
        assert f"{6 * 128 * shown['multiply_adds'] / 1e12:.2f}" == operations
