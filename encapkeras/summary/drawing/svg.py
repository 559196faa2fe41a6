"""A network as an SVG picture: text and shapes alone, readable on light and dark pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

from encapkeras.errors import printable
from encapkeras.summary.diagram import KINDS, Box, Diagram
from encapkeras.summary.drawing.layout import Point
from encapkeras.summary.drawing.picture import BOLD, SMALL, Line, Picture, arrange, box_height, box_width

MARGIN = 24.0
HEAD = 58.0  # title and subtitle
FOOT = 52.0  # the legend
LEGEND = "in each box: its shape, without the batch; weights · multiply-adds of an image"
ROUND = 8.0  # corners of lines

_STYLE = """
.ground{fill:#fff}.title{font:600 17px var(--sans);fill:#1f2328}.subtitle{font:12px var(--sans);fill:#59636e}
.name{font:600 13px var(--sans);fill:#1f2328}
.layer,.arguments,.size,.label,.legend{font:10.5px var(--mono);fill:#59636e}
.shape{font:11.5px var(--mono);fill:#1f2328}.legend{font:11px var(--sans)}
.frame{fill:#8b949e14;stroke:#8b949e66}
.line{fill:none;stroke:#6e7781;stroke-width:1.4}.dotted{stroke:#ef4444;stroke-dasharray:2 4;stroke-linecap:round}
.tip{fill:#6e7781}.tip.dotted{fill:#ef4444;stroke:none}.label{stroke:#fff;stroke-width:3px;paint-order:stroke}
.input,.output{fill:#f6f8fa;stroke:#8b949e}.convolution{fill:#eff6ff;stroke:#3b82f6}
.capsules{fill:#ecfdf5;stroke:#10b981}
.routing{fill:#fffbeb;stroke:#f59e0b}.keras{fill:#f6f8fa;stroke:#8b949e}.own{fill:#f5f3ff;stroke:#8b5cf6}
.loss{fill:#fef2f2;stroke:#ef4444;stroke-dasharray:5 3}
.bar.bar{stroke:none}.bar.input,.bar.output,.bar.keras{fill:#8b949e}
.bar.convolution{fill:#3b82f6}.bar.capsules{fill:#10b981}
.bar.routing{fill:#f59e0b}.bar.own{fill:#8b5cf6}.bar.loss{fill:#ef4444}
svg{--sans:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117}.title,.name,.shape{fill:#e6edf3}
.subtitle,.layer,.arguments,.size,.label,.legend{fill:#9198a1}.label{stroke:#0d1117}
.line{stroke:#8b949e}.line.dotted{stroke:#f87171}.tip{fill:#8b949e}
.input,.output,.keras{fill:#161b22}.convolution{fill:#0c1d3a}.capsules{fill:#06281e}.routing{fill:#2b1d05}
.own{fill:#1e1538}.loss{fill:#2d0f12}}
"""


def as_svg(diagram: Diagram) -> str:
    """Return the text of an SVG file.

    Examples:
        >>> from encapkeras.summary.diagram import Arrow, Box, Diagram
        >>> boxes = [Box("a", "a", "input", shape="8 x 8"), Box("b", "b", "keras", "keras.Flatten", shape="64")]
        >>> as_svg(Diagram("small", "", boxes, [Arrow("a", "b")])).startswith("<svg xmlns=")
        True
    """
    width = box_width(diagram.boxes)
    picture = arrange(diagram)
    body = list(_drawn(picture, width))
    legend = list(_legend(diagram))
    legend_width = 14 + sum(_legend_width(name) for _, name in legend)
    labels = [line.points[-1].x + SMALL * (len(line.arrow.label) + 1) for line in picture.lines if line.ends]
    picture.width = max([picture.width, *labels])
    texts = (legend_width, SMALL * len(LEGEND), 10 * len(diagram.title), SMALL * len(diagram.subtitle))
    full = max(picture.width, *texts) + 2 * MARGIN
    height = HEAD + picture.height + FOOT + 2 * MARGIN
    left = (full - picture.width) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(full)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(full)} {_n(height)}" role="img" aria-label="{_text(diagram.title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_n(full)}" height="{_n(height)}" rx="8"/>',
        f'<text class="title" x="{_n(MARGIN)}" y="{_n(MARGIN + 14)}">{_text(diagram.title)}</text>',
        f'<text class="subtitle" x="{_n(MARGIN)}" y="{_n(MARGIN + 34)}">{_text(diagram.subtitle)}</text>',
        f'<g transform="translate({_n(left)} {_n(MARGIN + HEAD)})">',
        *body,
        "</g>",
        *_drawn_legend(legend, height - MARGIN),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _drawn(picture: Picture, width: float) -> Iterator[str]:
    for block, at, wide, high in picture.frames:
        yield f'<rect class="frame" x="{_n(at.x)}" y="{_n(at.y)}" width="{_n(wide)}" height="{_n(high)}" rx="10"/>'
        yield f'<text class="layer" x="{_n(at.x + 10)}" y="{_n(at.y + 15)}">{_text(block.title)}</text>'
    for line in picture.lines:
        yield from _drawn_line(line)
    for box, at in picture.boxes:
        yield from _drawn_box(box, at, width)


def _drawn_line(line: Line) -> Iterator[str]:
    dotted = " dotted" if line.arrow.role else ""
    points = [point for point, after in itertools.pairwise(line.points) if point != after] + [line.points[-1]]
    yield f'<path class="line{dotted}" d="{_path(points)}"/>'
    if not line.ends:
        return
    tip = points[-1]
    yield f'<path class="tip{dotted}" d="M{_n(tip.x)} {_n(tip.y)}l-4 -7h8z"/>'
    if line.arrow.label:
        yield f'<text class="label" x="{_n(tip.x + 6)}" y="{_n(tip.y - 8)}">{_text(line.arrow.label)}</text>'


def _path(points: Sequence[Point]) -> str:
    parts = [f"M{_n(points[0].x)} {_n(points[0].y)}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before), _towards(corner, after)
        parts.append(f"L{_n(start.x)} {_n(start.y)}Q{_n(corner.x)} {_n(corner.y)} {_n(end.x)} {_n(end.y)}")
    return "".join([*parts, f"L{_n(points[-1].x)} {_n(points[-1].y)}"])


def _towards(corner: Point, other: Point) -> Point:
    distance = abs(other.x - corner.x) + abs(other.y - corner.y)
    share = min(ROUND, distance / 2) / distance
    return Point(corner.x + share * (other.x - corner.x), corner.y + share * (other.y - corner.y))


def _drawn_box(box: Box, at: Point, width: float) -> Iterator[str]:
    height = box_height(box)
    yield f'<g transform="translate({_n(at.x)} {_n(at.y)})">'
    if box.remark:
        yield f"<title>{_text(box.remark)}</title>"
    pill = box.kind in ("input", "output")
    yield f'<rect class="box {box.kind}" width="{_n(width)}" height="{_n(height)}" rx="{16 if pill else 6}"/>'
    if not pill:
        yield f'<rect class="bar {box.kind}" width="5" height="{_n(height)}" rx="2.5"/>'
    right = width - 12
    title = _cut(box.title, (width - 26) / BOLD)
    yield f'<text class="name" x="14" y="20">{_text(title)}</text>'
    if pill:
        words = "  ".join(text for text in (box.layer, _shape(box)) if text)
        yield f'<text class="shape" x="{_n(right)}" y="20" text-anchor="end">{_text(words)}</text>'
    else:
        layer = _cut(box.layer, (width - 36 - BOLD * len(title)) / SMALL)
        yield f'<text class="layer" x="{_n(right)}" y="20" text-anchor="end">{_text(layer)}</text>'
        if box.arguments:
            yield f'<text class="arguments" x="14" y="37">{_text(_cut(box.arguments, (width - 26) / SMALL))}</text>'
        yield f'<text class="shape" x="14" y="{_n(height - 10)}">{_text(_shape(box))}</text>'
        yield f'<text class="size" x="{_n(right)}" y="{_n(height - 10)}" text-anchor="end">{_text(box.size)}</text>'
    yield "</g>"


def _shape(box: Box) -> str:
    return box.shape.replace(" x ", " \N{MULTIPLICATION SIGN} ")


def _legend(diagram: Diagram) -> Iterator[tuple[str, str]]:
    used = {box.kind for box in diagram.boxes}
    yield from ((kind, name) for kind, name in KINDS.items() if kind in used)


def _legend_width(name: str) -> float:
    return 34 + 6.2 * len(name)


def _drawn_legend(legend: Iterable[tuple[str, str]], y: float) -> Iterator[str]:
    x = MARGIN
    for kind, name in legend:
        yield f'<rect class="bar {kind}" x="{_n(x)}" y="{_n(y - 9)}" width="10" height="10" rx="2"/>'
        yield f'<text class="legend" x="{_n(x + 16)}" y="{_n(y)}">{_text(name)}</text>'
        x += _legend_width(name)
    yield f'<text class="legend" x="{_n(MARGIN)}" y="{_n(y - 20)}">{_text(LEGEND)}</text>'


def _cut(text: str, length: float) -> str:
    return text if len(text) <= length else f"{text[: max(1, int(length) - 1)]}…"


def _text(text: str) -> str:
    return escape("\n".join(map(printable, text.split("\n"))), {'"': "&quot;"})


def _n(number: float) -> str:
    return f"{round(number, 1) + 0.0:.1f}".removesuffix(".0")  # and no -0
