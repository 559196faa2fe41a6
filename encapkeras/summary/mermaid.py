"""A network as a Mermaid flowchart, which GitHub and many editors draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from encapkeras.summary.diagram import Arrow, Block, Box, Diagram, Kind, blocks_of

# Fill and border of each kind: readable on light and dark pages, since boxes have their own background.
_COLORS: Mapping[Kind, tuple[str, str]] = {
    "input": ("#eef0f3", "#8b949e"),
    "convolution": ("#dbeafe", "#3b82f6"),
    "capsules": ("#d1fae5", "#10b981"),
    "routing": ("#fef3c7", "#f59e0b"),
    "keras": ("#e5e7eb", "#6b7280"),
    "own": ("#ede9fe", "#8b5cf6"),
    "loss": ("#fee2e2", "#ef4444"),
    "output": ("#eef0f3", "#8b949e"),
}
_TEXT = "#1f2328"

# Mermaid's own characters; "#" first, since the escapes of the others begin with it.
_ESCAPES = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\\": "#92;", ";": "#59;"}


def as_mermaid(diagram: Diagram) -> str:
    """Return the text of a flowchart.

    Examples:
        >>> from encapkeras.summary.diagram import Arrow, Box, Diagram
        >>> boxes = [Box("a", "a", "input", shape="8 x 8"), Box("b", "b", "keras", "keras.Flatten", shape="64")]
        >>> print(as_mermaid(Diagram("small", "", boxes, [Arrow("a", "b")])))  # doctest: +ELLIPSIS
        flowchart TD
            n0(["<b>a</b><br/>8 x 8"]):::input
            n1["<b>b</b><br/>keras.Flatten<br/>64"]:::keras
            n0 --> n1
            classDef input ...
    """
    ids = {box.key: f"n{number}" for number, box in enumerate(diagram.boxes)}
    blocks = dict.fromkeys(path for box in diagram.boxes for path in _around(box.block))
    frames = {path: f"b{number}" for number, path in enumerate(blocks)}
    lines = ["flowchart TD", *_members(blocks_of(diagram), ids, frames)]
    lines += [f"    {_arrow(arrow, ids)}" for arrow in diagram.arrows]
    used = {box.kind for box in diagram.boxes}
    for kind, (fill, stroke) in _COLORS.items():
        if kind in used:
            dashes = ",stroke-dasharray:4" if kind == "loss" else ""
            lines.append(f"    classDef {kind} fill:{fill},stroke:{stroke},color:{_TEXT}{dashes}")
    if frames:
        lines.append(f"    classDef block fill:none,stroke:#8b949e\n    class {','.join(frames.values())} block")
    return "\n".join(lines)


def _members(block: Block, ids: Mapping[str, str], frames: Mapping[str, str], indent: str = "    ") -> Iterator[str]:
    for member in block.members:
        if isinstance(member, Box):
            yield indent + _box(member, ids[member.key])
            continue
        yield f'{indent}subgraph {frames[member.path]}["{escaped(member.title)}"]'
        yield from _members(member, ids, frames, f"{indent}    ")
        yield f"{indent}end"


def _box(box: Box, name: str) -> str:
    lines = [f"<b>{escaped(box.title)}</b>", *(escaped(text) for text in (box.layer, box.shape) if text)]
    text = "<br/>".join(lines)
    shape = f'(["{text}"])' if box.kind in ("input", "output", "loss") else f'["{text}"]'
    return f"{name}{shape}:::{box.kind}"


def _around(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _arrow(arrow: Arrow, ids: Mapping[str, str]) -> str:
    line = "-.->" if arrow.role else "-->"
    label = f'|"{escaped(arrow.label)}"|' if arrow.label else ""
    return f"{ids[arrow.source]} {line}{label} {ids[arrow.target]}"


def escaped(text: str) -> str:
    """Return a text that Mermaid reads as text alone."""
    return "".join(_ESCAPES.get(character, character) for character in text)
