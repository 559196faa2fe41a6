"""Reads the pages of the documentation: blocks, commands and links."""

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]

FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
INDENTED_COMMAND = re.compile(r"^ {4}(?:\$ )?((?:encapkeras|python train\.py) .+)$", re.MULTILINE)
INLINE_COMMAND = re.compile(r"`((?:encapkeras|python train\.py) [^`]+)`")
FILE_NAME = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line of text, counted from 1."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in these languages, but for those that are files."""
    return [block for block in _all_blocks(page, *languages) if not FILE_NAME.match(block.text)]


def files(page: Path) -> dict[str, str]:
    """The files that the page has its reader write: blocks whose first line is a comment with the file's name."""
    in_order = _all_blocks(page, "python", "yaml")
    return {match[1]: block.text for block in in_order if (match := FILE_NAME.match(block.text))}


def _all_blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCED.finditer(text):
        if match["language"] in languages:
            line = text.count("\n", 0, match.start("text")) + 1
            inner = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            found.append(Block(page, line, match["language"], inner))
    return found


def without_blocks(page: Path) -> str:
    return FENCED.sub("", page.read_text())


@dataclass(frozen=True)
class Example:
    """A command of a console block and what the page says that it prints; nothing if it doesn't say."""

    place: str
    command: str
    output: str


def examples(page: Path) -> list[Example]:
    """The `$ command` lines of console blocks, each with the lines that follow; bash blocks show no output."""
    found = [Example(str(block), line, "") for block in blocks(page, "bash") for line in _joined(block.text)]
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block.text.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Example(str(block), command, output))
    return found


def commands(page: Path) -> list[str]:
    """Every encapkeras command on the page, in a block, on an indented line, or in running text."""
    prose = without_blocks(page)
    lines = [example.command for example in examples(page)]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    ours = [part for part in parts if part.startswith(("encapkeras ", "python train.py "))]
    return [*ours, *INDENTED_COMMAND.findall(prose), *INLINE_COMMAND.findall(prose)]


def _joined(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", "").splitlines() if line and not line.startswith("#")]


def links(page: Path) -> list[str]:
    return LINK.findall(re.sub(r"`[^`]*`", "", without_blocks(page)))


def anchors(page: Path) -> set[str]:
    """The names by which links reach the page's headings."""
    titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(without_blocks(page))]
    return {title.replace(" ", "-") for title in titles}
