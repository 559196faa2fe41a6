"""Draw routing_speed.png, the README's picture, from the JSON of a benchmark.

encapkeras bench routing --rounds 3 --json > docs/images/routing_speed.json && python docs/images/routing_speed.py
"""

import json
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.bottom": False}
COLORS = {"encapkeras": "#1f77b4", "textbook": "#b0b0b0"}
LABELS = {"encapkeras": "encapkeras", "textbook": "textbook, with votes"}
NAMES = {"dynamic": "dynamic routing", "em": "EM routing"}


def draw(rows: list[dict]) -> Figure:
    """Draw time on the left and memory on the right, one group of bars for each routing."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        time, memory = figure.subplots(1, 2)
        draw_bars(time, rows, "forward_and_backward_milliseconds_per_sample", "ms")
        draw_bars(memory, rows, "peak_extra_memory_megabytes", "MB")
        time.set_title("time per sample, forward and backward", fontsize=11, loc="left")
        memory.set_title(f"peak memory, batch of {rows[0]['batch_size']}", fontsize=11, loc="left")
        handles, labels = time.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return figure


def draw_bars(axes: Axes, rows: list[dict], key: str, unit: str) -> None:
    """Draw one quantity, both ways side by side, with its value at the end of each bar."""
    for offset, way in ((-0.2, "encapkeras"), (0.2, "textbook")):
        values = [row[key][way] for row in rows]
        bars = axes.barh([n + offset for n in range(len(rows))], values, 0.36, color=COLORS[way], label=LABELS[way])
        axes.bar_label(bars, [f"{value:,.{0 if value >= 100 else 1}f} {unit}" for value in values], padding=4)
    axes.set_yticks(range(len(rows)), [NAMES[row["method"]] for row in rows])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.margins(x=0.2)


if __name__ == "__main__":
    measured = json.loads((HERE / "routing_speed.json").read_text(encoding="utf-8"))
    draw(measured).savefig(HERE / "routing_speed.png", dpi=150)
