"""Registries of the things a spec can name: layers, losses, data sets.

A thing is declared once, by its typed signature and the `Args:` part of its docstring. From these come the checks of
Python calls and of specs, the error messages, the editors' schema and the reference pages.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic.warnings import ArbitraryTypeWarning

from encapkeras.errors import ArgumentError, RegistrationError, suggest
from encapkeras.validation import Checker, ValueProblem, shown

Target = TypeVar("Target", bound=Callable[..., Any])

REQUIRED = inspect.Parameter.empty

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Argument:
    """One argument of a registered thing.

    Args:
        name: Its name in Python and in specs.
        annotation: Its type with constraints.
        default: Its default, or `REQUIRED`.
        doc: What the docstring's `Args:` part says of it.
    """

    name: str
    annotation: Any
    default: Any
    doc: str
    checker: Checker = field(repr=False)

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Entry:
    """A registered thing: its name, what makes it, and its arguments.

    Args:
        name: The name that specs use.
        target: The class or function.
        summary: The first line of its docstring.
        arguments: Its arguments by name, in the order of the signature.
    """

    name: str
    target: Callable[..., Any]
    summary: str
    arguments: Mapping[str, Argument]

    def problems(self, values: Mapping[str, Any]) -> list[ValueProblem]:
        """All that is wrong with a map of arguments: unknown, missing and ill-typed ones."""
        found = []
        for name, value in values.items():
            if name not in self.arguments:
                text = f"'{name}' is not an argument of '{self.name}'. {suggest(name, self.arguments)}"
                found.append(ValueProblem((name,), text, "unknown"))
                continue
            for problem in self.arguments[name].checker.problems(value):
                found.append(ValueProblem((name, *problem.path), problem.text, problem.kind))
        for argument in self.arguments.values():
            if argument.required and argument.name not in values:
                text = f"'{self.name}' needs '{argument.name}': {argument.doc}"
                found.append(ValueProblem((argument.name,), text, "missing"))
        return found

    def converted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments as their declared types; raises `ArgumentError` naming all that is wrong."""
        problems = self.problems(values)
        if problems:
            lines = [f"{self.name}: {_dotted(p.path)}: {p.text}" if p.kind == "value" else p.text for p in problems]
            raise ArgumentError("\n".join(lines))
        return {name: self.arguments[name].checker.convert(value) for name, value in values.items()}


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


class Registry(Mapping[str, Entry]):
    """Names mapped to entries.

    Args:
        noun: What is registered, for messages: "layer", "loss", "data set".
        skip: Parameters that are not for specs.
        reserved: Parameters that cannot be, since their names mean something else in a spec.
    """

    def __init__(
        self, noun: str, *, skip: frozenset[str] = frozenset(), reserved: frozenset[str] = frozenset()
    ) -> None:
        self.noun = noun
        self._skip = skip
        self._reserved = reserved
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Target], Target]:
        """A decorator that registers a class or function under a name.

        A class checks its arguments from then on whenever it is made, and keeps them, as declared, in `_arguments`.

        Args:
            name: The name that specs use.

        Raises:
            RegistrationError: A parameter has no annotation, no line in the docstring's `Args:`, or a default that does
                not fit; or the name is taken, or is no name.
        """
        if not isinstance(name, str):
            raise RegistrationError(
                f"a {self.noun} is registered under the name that specs use: write it in parentheses behind the "
                f"decorator, in quotes; received {getattr(name, '__name__', None) or shown(name)}"
            )
        if not _NAME.fullmatch(name):
            raise RegistrationError(
                f"{name!r} is no name for a {self.noun}; it consists of letters, digits, '_' and '-', and begins with "
                "a letter"
            )

        def decorate(target: Target) -> Target:
            if name in self._entries:
                text = f"{self.noun} '{name}' is registered already, by {_origin(self._entries[name].target)}"
                raise RegistrationError(f"{text}. Choose another name.")
            self._entries[name] = entry = self._entry(name, target)
            if inspect.isclass(target):
                _check_when_made(target, entry)
            return target

        return decorate

    def _entry(self, name: str, target: Callable[..., Any]) -> Entry:
        signature_of = target.__init__ if inspect.isclass(target) else target
        what = f"{self.noun} '{name}' ({'class' if inspect.isclass(target) else 'function'} {target.__name__})"
        try:
            hints = typing.get_type_hints(signature_of, include_extras=True)
        except Exception as error:  # annotations are the user's own code
            raise RegistrationError(f"{what}: its annotations cannot be read: {error}") from error
        docs = _documented(target)
        arguments: dict[str, Argument] = {}
        problems = []
        for parameter in inspect.signature(signature_of).parameters.values():
            if parameter.name in {"self", *self._skip} or parameter.kind is parameter.VAR_KEYWORD:
                continue
            wrong = self._wrong(parameter, hints, docs)
            if wrong:
                problems.append(wrong)
                continue
            annotation, doc = hints[parameter.name], (docs or {}).get(parameter.name, "")
            try:
                with warnings.catch_warnings(action="error", category=ArbitraryTypeWarning):
                    checker = Checker(annotation)
            except Exception:  # of pydantic, which has many kinds
                problems.append(f"the annotation of '{parameter.name}' is no type")
                continue
            argument = Argument(parameter.name, annotation, parameter.default, doc, checker)
            if not argument.required:
                found = argument.checker.problems(parameter.default)
                problems += [f"the default of '{parameter.name}' {problem.text}" for problem in found]
            arguments[parameter.name] = argument
        if problems:
            raise RegistrationError(f"{what}: {'; '.join(problems)}")
        summary = inspect.cleandoc(target.__doc__ or "").partition("\n")[0]
        return Entry(name, target, summary, arguments)

    def _wrong(self, parameter: inspect.Parameter, hints: Mapping[str, Any], docs: Mapping[str, str] | None) -> str:
        """What keeps a parameter from being an argument in specs; empty if nothing does."""
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            return f"specs give arguments by name, which '{parameter}' does not take"
        if name in self._reserved:
            return f"parameter '{name}' needs another name, for '{name}' means something else in a spec"
        if name not in hints:
            return f"parameter '{name}' has no annotation: write its type, such as '{name}: int'"
        if docs is not None and name not in docs:
            return f"parameter '{name}' has no line in the docstring's 'Args:': write '{name}: What it is.' there"
        return ""

    def forget(self, names: Iterable[str]) -> None:
        """Takes names away again, after the file that registered them has failed."""
        for name in names:
            del self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(f"no {self.noun} is called '{name}'. {suggest(name, self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _documented(target: Callable[..., Any]) -> dict[str, str] | None:
    """What docstrings say of each argument, those of the classes it inherits from included; None under `python -OO`."""
    if sys.flags.optimize >= 2:
        return None
    classes = inspect.getmro(target) if inspect.isclass(target) else (target,)
    docs: dict[str, str] = {}
    for cls in reversed(classes):
        docs.update(argument_docs(inspect.cleandoc(cls.__doc__ or "")))
    return docs


def _origin(target: Callable[..., Any]) -> str:
    """Who registered it, for messages."""
    if target.__module__.startswith("encapkeras."):
        return "encapkeras itself"
    return getattr(sys.modules.get(target.__module__), "__file__", None) or f"the module '{target.__module__}'"


def _check_when_made(cls: type, entry: Entry) -> None:
    original = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        given = {name: value for name, value in bound.arguments.items() if name in entry.arguments}
        converted = entry.converted({name: value for name, value in given.items() if value is not REQUIRED})
        bound.arguments.update(converted)
        # Not an attribute that Keras or torch would track. A registered subclass has set its own before.
        self.__dict__.setdefault("_arguments", converted)
        original(*bound.args, **bound.kwargs)

    checked.__signature__ = signature  # type: ignore[attr-defined]  # Keras reads the arguments' names from it
    cls.__init__ = checked  # type: ignore[misc]


def argument_docs(docstring: str, part: str = "Args") -> dict[str, str]:
    r"""What the `Args:` part of a Google-style docstring, or another of its parts, says of each name.

    Example:
        >>> argument_docs("Squash.\n\nArgs:\n    axis: The capsule axis,\n        from -1.\n    name: A name.")
        {'axis': 'The capsule axis, from -1.', 'name': 'A name.'}
    """
    found = re.search(rf"^{part}:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    docs: dict[str, str] = {}
    current = ""
    for line in found.group(1).splitlines() if found else []:
        start = re.match(r"^ {4}(?:\*\*)?(\w+)(?: \([^)]*\))?: ?(.*)$", line)
        if start:
            current = start.group(1)
            docs[current] = start.group(2).strip()
        elif current and line.strip():
            docs[current] = f"{docs[current]} {line.strip()}"
    return docs
