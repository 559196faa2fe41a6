"""Values of a spec that know where they were written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


class Failed:
    """In place of a value whose error has been reported; what depends on it is not reported again."""

    def __repr__(self) -> str:
        return "<failed>"


FAILED = Failed()


@dataclass(slots=True)
class Tree:
    """A value of a spec: a scalar, a list or map of trees, or `FAILED`."""

    value: Any
    file: str  # as the user named it, `<dict>` or `--set`
    line: int  # from 1, of the value's key, or of the value itself in a list; 0 where there is no text
    column: int  # from 1; 0 where there is no text
    path: str  # dotted, from the top of the spec, as written there
    note: str = ""  # the row of a `repeat`, or the use of a block, that it belongs to
    origin: str = ""  # which variable gave the value, and where that is written; empty for a value as written
    guessed: bool = False  # whether its key is a guess at what a misspelled one means; errors in it are not reported
    deletes: bool = False  # whether it is a `null` that has deleted a value

    @property
    def place(self) -> str:
        """Return `file:line:column`, or the file alone where there is no line."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def with_value(self, value: Any) -> Tree:
        """Return another value at the same place."""
        return dataclasses.replace(self, value=value)

    def each(self, change: Callable[[Tree], Tree]) -> Tree:
        """Return the same with every entry or element changed; a scalar as it is."""
        if isinstance(self.value, dict):
            return self.with_value({key: change(entry) for key, entry in self.value.items()})
        return self.with_value([change(element) for element in self.value]) if isinstance(self.value, list) else self

    def everywhere(self, **changes: Any) -> Tree:
        """Return the same with some fields changed, down to its leaves."""
        return dataclasses.replace(self.each(lambda child: child.everywhere(**changes)), **changes)

    def as_guess(self) -> Tree:
        """Return the same as a guess, down to its leaves."""
        return self.everywhere(guessed=True)

    def entries(self) -> dict[str, Tree]:
        """Return the entries of a map; of anything else none."""
        return self.value if isinstance(self.value, dict) else {}

    def deepest(self, *path: str) -> Tree:
        """Return the value at a path, or the deepest on the way to it that is written down."""
        tree = self
        for key in path:
            tree = tree.entries().get(key, tree)
        return tree

    @property
    def failed(self) -> bool:
        """Return whether its error has been reported; a list fails with any of its elements."""
        return self.value is FAILED or (isinstance(self.value, list) and any(e.failed for e in self.value))

    def plain(self) -> Any:
        """Return the value as plain data, without the entries that failed."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items() if not entry.failed}
        if isinstance(self.value, list):
            return [element.plain() for element in self.value]
        return self.value

    def size(self) -> int:
        """Return how many scalars, lists and maps it holds, including itself."""
        return 1 + (sum(child.size() for child in self._children()) if isinstance(self.value, dict | list) else 0)

    def depth(self) -> int:
        """Return how deeply its lists and maps are nested; 0 for a scalar."""
        if not isinstance(self.value, dict | list):
            return 0
        return 1 + max((child.depth() for child in self._children()), default=0)

    def _children(self) -> Iterable[Tree]:
        return self.value.values() if isinstance(self.value, dict) else self.value

    def failures(self) -> Iterator[Tree]:
        """Yield all that failed in it."""
        if self.failed:
            yield self
        if isinstance(self.value, dict | list):
            for child in self._children():
                yield from child.failures()


def child_path(path: str, step: str | int) -> str:
    """Return the path of an entry or element."""
    return f"{path}.{step}" if path else str(step)
