"""Places for boxes in layers from top to bottom, and routes for lines between them that cross no box.

The usual steps (Sugiyama, Tagawa and Toda 1981): each box is one layer below those that it depends on; a line across
several layers gets its own narrow place in each; places are ordered for few crossings; then each place moves
towards its neighbors, as far as the order and the widths allow.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

GAP = 24.0  # between two places of a layer
LANE = 8.0  # width of the place of a line
ABOVE, BELOW = 12.0, 22.0  # between a layer and the first line that runs across under it, the last and the next layer
TRACK = 9.0  # between two lines that run across
ORDERINGS = 12  # sweeps that order places
MOVES = 60  # sweeps that move places
STRAIGHT = 4.0  # weight of a line's inner parts against its ends
NEARLY = 6.0  # a smaller distance is removed

Key = Hashable


@dataclass(frozen=True)
class Item:
    """What gets a place; with the rank `first` or `last`, in the first or last layer."""

    key: Key
    width: float
    height: float
    rank: Literal["first", "free", "last"] = "free"


@dataclass(frozen=True)
class Link:
    """What gets a route from the lower edge of an item to the upper edge of another."""

    key: Key
    source: Key
    target: Key
    start: float  # from the left edge of the source
    end: float  # from the left edge of the target
    weight: float = 1.0  # how much it should be straight
    bus: Key = None  # links with the same one may share a line


class Point(NamedTuple):
    """A point of the picture, from its upper left corner."""

    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """The picture's size, each item's upper left corner, and each link's points: straight down or across in between."""

    width: float
    height: float
    corners: Mapping[Key, Point]
    ways: Mapping[Key, Sequence[Point]]


@dataclass(eq=False)
class _Place:
    """An item, or where a link crosses a layer."""

    width: float
    height: float
    item: Item | None
    above: list[tuple[_Place, float, float, float]] = field(default_factory=list)
    below: list[tuple[_Place, float, float, float]] = field(default_factory=list)
    order: float = 0.0
    x: float = 0.0  # of its middle


def lay_out(items: Sequence[Item], links: Sequence[Link]) -> Layout:
    """Find places and routes; each item comes after those that its links come from."""
    ranks = _ranks(items, links)
    layers: list[list[_Place]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    places = {}
    for item in items:
        places[item.key] = place = _Place(item.width, item.height, item)
        layers[ranks[item.key]].append(place)
    chains = {link.key: _chain(link, places, ranks, layers) for link in links}
    _order(layers)
    _move(layers)
    return _measured(layers, links, chains, places, ranks)


def _ranks(items: Sequence[Item], links: Sequence[Link]) -> dict[Key, int]:
    sources: dict[Key, list[Key]] = {item.key: [] for item in items}
    targets: dict[Key, list[Key]] = {item.key: [] for item in items}
    for link in links:
        sources[link.target].append(link.source)
        targets[link.source].append(link.target)
    lowest = int(any(item.rank == "first" for item in items))
    ranks: dict[Key, int] = {}
    for item in items:
        above = max((ranks[key] + 1 for key in sources[item.key]), default=0)
        ranks[item.key] = 0 if item.rank == "first" else max(lowest, above)
    for item in items:  # what depends on nothing is just above what depends on it
        if item.rank == "free" and not sources[item.key] and targets[item.key]:
            ranks[item.key] = max(lowest, min(ranks[key] for key in targets[item.key]) - 1)
    last = max((ranks[item.key] + (item.rank != "last") for item in items), default=0)
    return {item.key: last if item.rank == "last" else ranks[item.key] for item in items}


def _chain(
    link: Link, places: Mapping[Key, _Place], ranks: Mapping[Key, int], layers: Sequence[list[_Place]]
) -> list[_Place]:
    """Return the places on a link's route: those of its items first and last, new ones in between."""
    source, target = places[link.source], places[link.target]
    lanes = [_Place(LANE, 0, None) for _ in range(ranks[link.source] + 1, ranks[link.target])]
    for rank, lane in enumerate(lanes, start=ranks[link.source] + 1):
        layers[rank].append(lane)
    chain = [source, *lanes, target]
    for above, below in itertools.pairwise(chain):
        start = link.start - source.width / 2 if above is source else 0.0
        end = link.end - target.width / 2 if below is target else 0.0
        weight = link.weight * (STRAIGHT if above.item is None and below.item is None else 1)
        above.below.append((below, start, end, weight))
        below.above.append((above, end, start, weight))
    return chain


def _order(layers: Sequence[list[_Place]]) -> None:
    _number(layers)
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(ORDERINGS):
        if fewest == 0:
            break
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            layer.sort(key=lambda place: _middle_of(place.above if downwards else place.below, place))
            _number([layer])
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, ordered in zip(layers, best, strict=True):
        layer[:] = ordered
    _number(layers)


def _number(layers: Iterable[list[_Place]]) -> None:
    for layer in layers:
        for number, place in enumerate(layer):
            place.order = number


def _middle_of(neighbors: Sequence[tuple[_Place, float, float, float]], place: _Place) -> float:
    if not neighbors:
        return place.order
    return statistics.fmean(other.order + offset / (other.width + 1) for other, _, offset, _ in neighbors)


def _crossings(layers: Sequence[list[_Place]]) -> int:
    count = 0
    for layer in layers:
        ends: list[tuple[float, float]] = sorted(
            (place.order + start / (place.width + 1), other.order + end / (other.width + 1))
            for place in layer
            for other, start, end, _ in place.below
        )
        passed: list[float] = []
        for start_end in ends:
            count += len(passed) - bisect.bisect_right(passed, start_end[1])
            bisect.insort(passed, start_end[1])
    return count


def _move(layers: Sequence[list[_Place]]) -> None:
    """Move each place towards its neighbors above and below, keeping the order."""
    for layer in layers:
        _settle(layer, [(0.0, 1.0)] * len(layer))
    for sweep in range(MOVES):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wishes = []
            for place in layer:
                neighbors = place.above if sweep % 2 == 0 else place.below
                if sweep >= MOVES // 2:
                    neighbors = place.above + place.below
                wishes.append(_wish(place, neighbors))
            _settle(layer, wishes)
    _put_in_columns(layers)
    _straighten(layers)


def _wish(place: _Place, neighbors: Sequence[tuple[_Place, float, float, float]]) -> tuple[float, float]:
    """Return where a place should be, and the weight of that."""
    amount = sum(weight for *_, weight in neighbors)
    if not amount:
        return place.x, 0.01
    return sum(weight * (other.x + theirs - own) for other, own, theirs, weight in neighbors) / amount, amount


def _settle(layer: Sequence[_Place], wishes: Sequence[tuple[float, float]]) -> None:
    """Move places to the least squared distance from the wishes that keeps order and gaps (pool adjacent violators)."""
    shifts = [0.0]
    for left, right in itertools.pairwise(layer):
        shifts.append(shifts[-1] + (left.width + right.width) / 2 + GAP)
    groups: list[tuple[float, float, int]] = []  # mean, weight, members
    for (wish, weight), shift in zip(wishes, shifts, strict=True):
        mean, members = wish - shift, 1
        while groups and groups[-1][0] > mean:
            other, amount, count = groups.pop()
            mean = (mean * weight + other * amount) / (weight + amount)
            weight, members = weight + amount, members + count
        groups.append((mean, weight, members))
    positions = [mean for mean, _, members in groups for _ in range(members)]
    for place, position, shift in zip(layer, positions, shifts, strict=True):
        place.x = position + shift


def _put_in_columns(layers: Sequence[list[_Place]]) -> None:
    """Align places of different layers that are almost above each other."""
    columns: list[float] = []
    for layer in layers:
        for number, place in enumerate(layer):
            near = [column for column in columns if _fits(column, number, layer)]
            if near:
                place.x = min(near, key=lambda column: abs(column - place.x))
            else:
                columns.append(place.x)


def _straighten(layers: Sequence[list[_Place]]) -> None:
    for layer in layers:
        for number, place in enumerate(layer):
            if place.above:
                other, own, theirs, _ = max(place.above, key=lambda neighbor: neighbor[3])
                if _fits(other.x + theirs - own, number, layer):
                    place.x = other.x + theirs - own


def _fits(x: float, number: int, layer: Sequence[_Place]) -> bool:
    """Return whether a place can move to x, which must be near."""
    place, beside = layer[number], [*layer[:number][-1:], *layer[number + 1 :][:1]]
    return abs(x - place.x) < NEARLY and all(
        abs(x - other.x) >= (place.width + other.width) / 2 + GAP - NEARLY for other in beside
    )


def _measured(
    layers: Sequence[list[_Place]],
    links: Sequence[Link],
    chains: Mapping[Key, Sequence[_Place]],
    places: Mapping[Key, _Place],
    ranks: Mapping[Key, int],
) -> Layout:
    """Return the picture from the order of the layers and the middles of the places."""
    everywhere = [place for layer in layers for place in layer]
    left = min((place.x - place.width / 2 for place in everywhere), default=0.0)
    right = max((place.x + place.width / 2 for place in everywhere), default=0.0)
    for place in everywhere:
        place.x -= left
    bends = {link.key: _bends(link, chains[link.key]) for link in links}
    tops, tracks = [0.0], []
    for rank, layer in enumerate(layers):
        crossing = [
            (link, *bends[link.key][rank - ranks[link.source]])
            for link in links
            if ranks[link.source] <= rank < ranks[link.target]
        ]
        height = tops[-1] + max((place.height for place in layer), default=0.0)
        level, count = _tracks(crossing)
        tracks.append({key: height + ABOVE + number * TRACK for key, number in level.items()})
        tops.append(height + ABOVE + max(count - 1, 0) * TRACK + BELOW)
    corners = {key: Point(place.x - place.width / 2, tops[ranks[key]]) for key, place in places.items()}
    ways = {}
    for link in links:
        points = [Point(bends[link.key][0][0], corners[link.source].y + places[link.source].height)]
        for number, (start, end) in enumerate(bends[link.key]):
            if start != end:
                level_y = tracks[ranks[link.source] + number][link.key]
                points += [Point(start, level_y), Point(end, level_y)]
        ways[link.key] = [*points, Point(points[-1].x, corners[link.target].y)]
    height = max((corners[key].y + place.height for key, place in places.items()), default=0.0)
    return Layout(right - left, height, corners, ways)


def _bends(link: Link, chain: Sequence[_Place]) -> list[tuple[float, float]]:
    """Return from where to where a link runs across under each layer that it leaves."""
    xs = [place.x for place in chain]
    xs[0] += link.start - chain[0].width / 2
    xs[-1] += link.end - chain[-1].width / 2
    return [(a, a if abs(a - b) < 0.01 else b) for a, b in itertools.pairwise(xs)]


def _tracks(crossing: Sequence[tuple[Link, float, float]]) -> tuple[dict[Key, int], int]:
    """Return a level for each link that runs across, so that those on one level do not meet; and how many there are."""
    spans: dict[Key, tuple[float, float]] = {}
    for link, start, end in crossing:
        if start != end:
            bus = link.key if link.bus is None else (link.bus, start)
            low, high = spans.get(bus, (start, start))
            spans[bus] = min(low, start, end), max(high, start, end)
    levels: list[float] = []  # where the last line on each ends
    found: dict[Key, int] = {}
    for bus, (low, high) in sorted(spans.items(), key=lambda span: span[1]):
        free = [number for number, end in enumerate(levels) if end + GAP / 2 < low]
        number = free[0] if free else len(levels)
        levels[number : number + 1] = [high]
        found[bus] = number
    keys = {
        link.key: found[link.key if link.bus is None else (link.bus, start)]
        for link, start, end in crossing
        if start != end
    }
    return keys, len(levels)
