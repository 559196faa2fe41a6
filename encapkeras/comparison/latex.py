"""The tables of a comparison for a paper, in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from encapkeras.comparison.rows import Pair, Row
from encapkeras.comparison.statistics import CONFIDENCE, half_width
from encapkeras.errors import printable
from encapkeras.spec.sweep import value_text

_SPECIAL = re.compile(r"[\\{}$&#^_~%<>|\[\]*\"`]|-(?=-)")
_COMMANDS = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
_COMMANDS |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}"}
_ESCAPED = "{}$&#_%"


def in_latex(text: str) -> str:
    r"""Return a text that LaTeX shows as it is.

    Examples:
        >>> print(in_latex("my_net: 5% & more"))
        my\_net: 5\% \& more
    """

    def shown(found: re.Match[str]) -> str:
        sign = found[0]
        # Braces keep `[` and `*` from being read as arguments of the line before, and `--` from becoming a dash.
        return f"\\{sign}" if sign in _ESCAPED else _COMMANDS.get(sign, f"{{{sign}}}")

    return _SPECIAL.sub(shown, printable(text))


def latex_tables(
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    swept: Mapping[str, str],
    notes: Sequence[str],
    compared_by: str = "accuracy",
) -> str:
    """Return a table of the networks and one of the pairs, which need the package `booktabs`."""
    level = f"{CONFIDENCE:.0%}"
    together = f"; all {len(pairs)} intervals hold together (Bonferroni)" if len(pairs) > 1 else ""
    remarks = printable("\n".join(notes), keep="\n").replace("\n", "\n% ")
    tables = [
        _table(
            [_network(row, swept, compared_by) for row in rows],
            f"Test {compared_by} in percent: mean over seeds, and its {level} confidence interval (Student's t).",
        )
    ]
    if pairs:
        differences = f"Differences in test {compared_by} over equal seeds, in percentage points"
        caption = f"{differences}, with {level} intervals{together}."
        tables.append(_table([_pair(pair) for pair in pairs], caption))
    return "\n".join([f"% {remarks}", r"% In the preamble: \usepackage{booktabs}", *tables])


def _network(row: Row, swept: Mapping[str, str], compared_by: str) -> dict[str, str]:
    spread = row.test_accuracy if compared_by == "accuracy" else row.test_mean_iou
    accuracy = "--"
    if spread:
        deviation = spread.standard_deviation
        reach = "" if not deviation else rf" \pm {100 * half_width(deviation, row.finished):.2f}"
        accuracy = f"${100 * spread.mean:.2f}{reach}$"
    values = {
        in_latex(heading): in_latex(value_text(row.network.swept[path])) if path in row.network.swept else "--"
        for path, heading in swept.items()
    }
    parameters = "--" if row.parameters is None else f"{row.parameters:,}"
    name = in_latex(row.network.title)
    return {
        "Network": name,
        **values,
        compared_by[:1].upper() + compared_by[1:]: accuracy,
        "Parameters": parameters,
        "Seeds": str(row.finished),
    }


def _pair(pair: Pair) -> dict[str, str]:
    interval = pair.difference.interval.replace(" to ", "$ to $")
    return {
        "Network": in_latex(pair.network.label),
        "Compared with": in_latex(pair.reference.label),
        "Difference": f"${pair.difference.points}$",
        "Interval": f"${interval}$" if interval else "--",
    }


def _table(rows: Sequence[Mapping[str, str]], caption: str) -> str:
    lines = [" & ".join(cells) + r" \\" for cells in (rows[0], *(row.values() for row in rows))]
    body = "\n    ".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    texts = sum(heading in ("Network", "Compared with") for heading in rows[0])
    return rf"""\begin{{table}}
  \centering
  \caption{{{in_latex(caption)}}}
  \begin{{tabular}}{{{"l" * texts}{"r" * (len(rows[0]) - texts)}}}
    {body}
  \end{{tabular}}
\end{{table}}
"""
