"""Places for the boxes of a network, those of a block together in its frame, and routes for its arrows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from encapkeras.summary.diagram import Arrow, Block, Box, Diagram, blocks_of
from encapkeras.summary.drawing.layout import Item, Key, Link, Point, lay_out

FRAME = 14.0  # between a block's frame and what is in it
FRAME_HEAD = 12.0  # more of it above, for the block's name
FRAME_FOOT = -12.0  # less below, where there is room for lines to turn
NARROWEST, WIDEST = 250.0, 340.0  # boxes
BOLD, LARGE, SMALL = 7.8, 7.0, 6.4  # widths of letters, on the large side
MAIN, SIDE, DOTTED = 100.0, 1.0, 0.2  # weights of a box's first input, the others and those of losses


@dataclass(frozen=True)
class Line:
    """A part of an arrow, within one block; `ends` is whether it reaches the arrow's target."""

    points: list[Point]
    arrow: Arrow
    ends: bool


@dataclass
class Picture:
    """What is in a block, with places from the block's upper left corner."""

    width: float = 0.0
    height: float = 0.0
    boxes: list[tuple[Box, Point]] = field(default_factory=list)
    frames: list[tuple[Block, Point, float, float]] = field(default_factory=list)  # corner, width, height
    lines: list[Line] = field(default_factory=list)
    doors: dict[Key, float] = field(default_factory=dict)  # where tensors enter above or leave below, from the left


def arrange(diagram: Diagram) -> Picture:
    """Find places for all that a diagram shows; without frames if a node is between two nodes of one block."""
    width = box_width(diagram.boxes)
    try:
        return _arranged(blocks_of(diagram), diagram, width)
    except CycleError:
        diagram = replace(diagram, boxes=[replace(box, block="", title=box.key) for box in diagram.boxes])
        return _arranged(blocks_of(diagram), diagram, width)


def box_width(boxes: Sequence[Box]) -> float:
    """Return the width of all boxes: that of the longest text, within limits."""
    above = [BOLD * len(box.title) + SMALL * len(box.layer) for box in boxes]
    below = [LARGE * len(box.shape) + SMALL * len(box.size) for box in boxes]
    return max(NARROWEST, min(WIDEST, 40 + max([*above, *below], default=0.0)))


def box_height(box: Box) -> float:
    """Return the height of a box: that of its lines of text."""
    if box.kind in ("input", "output"):
        return 32.0
    return 64.0 if box.arguments else 48.0


class _Connection(NamedTuple):
    """The part of an arrow within one block: from a member or the upper edge to a member or the lower edge."""

    source: Key
    target: Key
    tensor: Key
    arrow: Arrow
    ends: bool


def _arranged(block: Block, diagram: Diagram, width: float) -> Picture:
    """Return the picture of a block with the blocks in it; raise `CycleError` if blocks depend on each other."""
    inner = {_key(part): _arranged(part, diagram, width) for part in block.members if isinstance(part, Block)}
    connections = _connections(block, diagram)
    links = _links(connections, inner, width)
    items = _items(block, connections, inner, width)
    layout = lay_out(items, links)
    losses = {member.key for member in block.members if isinstance(member, Box) and member.kind == "loss"}
    links = _spread(links, losses, layout.ways, width)
    layout = lay_out(items, links)
    picture = Picture(layout.width, layout.height)
    for member in block.members:
        corner = layout.corners[_key(member)]
        if isinstance(member, Box):
            picture.boxes.append((member, corner))
        else:
            _add(picture, member, inner[_key(member)], corner)
    for connection, link in zip(connections, links, strict=True):
        picture.lines.append(Line(list(layout.ways[link.key]), connection.arrow, connection.ends))
    for item in items:
        if item.rank != "free":
            picture.doors[item.key] = layout.corners[item.key].x
    return _framed(picture) if block.path else picture


def _key(member: Box | Block) -> Key:
    return member.key if isinstance(member, Box) else ("block", member.path)


def _connections(block: Block, diagram: Diagram) -> list[_Connection]:
    """Return the arrows that begin or end in a block or one of its members; those with the same route once."""
    homes = {box.key: box.block for box in diagram.boxes}
    found: dict[Key, _Connection] = {}
    for arrow in diagram.arrows:
        tensor = (arrow.source, arrow.port, bool(arrow.role))
        source = _member(arrow.source, homes[arrow.source], block.path) or ("in", tensor)
        target = _member(arrow.target, homes[arrow.target], block.path) or ("out", tensor)
        if source == target or (source, target) == (("in", tensor), ("out", tensor)):
            continue
        ends = target == arrow.target
        key = (source, target, tensor, arrow if ends else None)
        found.setdefault(key, _Connection(source, target, tensor, arrow, ends))
    return list(found.values())


def _member(key: str, home: str, path: str) -> Key:
    """Return the member of a block that a box is, or is in; None if it is outside."""
    if home == path:
        return key
    prefix = f"{path}." if path else ""
    if home.startswith(prefix):
        return "block", prefix + home.removeprefix(prefix).partition(".")[0]
    return None


def _links(connections: Sequence[_Connection], inner: Mapping[Key, Picture], width: float) -> list[Link]:
    met: set[Key] = set()  # a line is the main one of both its ends, or of none
    links = []
    for number, (source, target, tensor, arrow, _) in enumerate(connections):
        start = inner[source].doors["out", tensor] if source in inner else _middle(source, width)
        end = inner[target].doors["in", tensor] if target in inner else _middle(target, width)
        begun, ended = ("from", source), ("to", target)
        weight = DOTTED if arrow.role else SIDE if met & {begun, ended} else MAIN
        if not arrow.role:
            met |= {begun, ended}
        links.append(Link(number, source, target, start, end, weight, tensor))
    return links


def _middle(end: Key, width: float) -> float:
    return 0.0 if isinstance(end, tuple) else width / 2


def _items(block: Block, connections: Sequence[_Connection], inner: Mapping[Key, Picture], width: float) -> list[Item]:
    """Return the members of a block, each after those that its lines come from, between doors in and out."""
    needs: dict[Key, list[Key]] = {_key(member): [] for member in block.members}
    doors: dict[tuple[str, Key], None] = {}
    for source, target, *_ in connections:
        for end in (source, target):
            if end not in needs and isinstance(end, tuple):
                doors[end] = None
        if source in needs and target in needs:
            needs[target].append(source)
    sizes = {_key(member): (width, box_height(member)) for member in block.members if isinstance(member, Box)}
    sizes |= {key: (picture.width, picture.height) for key, picture in inner.items()}
    ordered = [Item(key, *sizes[key]) for key in TopologicalSorter(needs).static_order()]
    ways_in = [Item(key, 0, 0, "first") for key in doors if key[0] == "in"]
    ways_out = [Item(key, 0, 0, "last") for key in doors if key[0] == "out"]
    return [*ways_in, *ordered, *ways_out]


def _spread(
    links: Sequence[Link], losses: Collection[Key], ways: Mapping[Key, Sequence[Point]], width: float
) -> list[Link]:
    """Move ends side by side where several links end at one box: the first in its middle, unless it is a loss."""
    ends: dict[Key, list[Link]] = {}
    for link in links:
        if not isinstance(link.target, tuple):
            ends.setdefault(link.target, []).append(link)
    moved: dict[Key, float] = {}
    for target, several in ends.items():
        if target in losses:
            moved |= {link.key: width * (n + 0.5) / len(several) for n, link in enumerate(several)}
            continue
        middle = ways[several[0].key][-1].x
        sides = sorted(several[1:], key=lambda link: _comes_from(ways[link.key]))
        left = [link for link in sides if _comes_from(ways[link.key]) < middle]
        right = sides[len(left) :]
        for side, sign in ((left[::-1], -1), (right, 1)):
            for number, link in enumerate(side, start=1):
                moved[link.key] = width / 2 * (1 + sign * number / (len(side) + 1))
    return [replace(link, end=moved.get(link.key, link.end)) for link in links]


def _comes_from(way: Sequence[Point]) -> float:
    """Return where a line was before its last turn."""
    return next((point.x for point in reversed(way) if point.x != way[-1].x), way[-1].x)


def _add(picture: Picture, block: Block, part: Picture, corner: Point) -> None:
    picture.frames.append((block, corner, part.width, part.height))
    picture.frames += [(frame, _moved(at, corner), w, h) for frame, at, w, h in part.frames]
    picture.boxes += [(box, _moved(at, corner)) for box, at in part.boxes]
    picture.lines += [
        Line([_moved(point, corner) for point in line.points], line.arrow, line.ends) for line in part.lines
    ]


def _moved(point: Point, by: Point) -> Point:
    return Point(point.x + by.x, point.y + by.y)


def _framed(picture: Picture) -> Picture:
    """Return the picture with room for a frame, whose edges the lines then reach."""
    ways = {key[0] for key in picture.doors if isinstance(key, tuple)}
    head = FRAME_HEAD if "in" in ways else 2 * FRAME
    foot = FRAME_FOOT if "out" in ways else FRAME
    for line in picture.lines:
        if line.points[0].y == 0:
            line.points.insert(0, Point(line.points[0].x, -head))
        if line.points[-1].y == picture.height and not line.ends:
            line.points[-1] = Point(line.points[-1].x, picture.height + foot)
    by = Point(FRAME, head)
    framed = Picture(picture.width + 2 * FRAME, picture.height + head + foot)
    framed.boxes = [(box, _moved(at, by)) for box, at in picture.boxes]
    framed.frames = [(frame, _moved(at, by), w, h) for frame, at, w, h in picture.frames]
    framed.lines = [Line([_moved(point, by) for point in line.points], line.arrow, line.ends) for line in picture.lines]
    framed.doors = {key: x + FRAME for key, x in picture.doors.items()}
    return framed
