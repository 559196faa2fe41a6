"""Registries of what a spec can name: layers, losses, data sets.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic.warnings import ArbitraryTypeWarning

from encapkeras.errors import RegistrationError, suggest
from encapkeras.validation import REQUIRED, Argument, Arguments, ValueProblem, refusal, shown

Target = TypeVar("Target", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True, eq=False)
class Entry:
    """A registered thing: its name in specs, what makes it, the first line of its docstring, its arguments."""

    name: str
    target: Callable[..., Any]
    summary: str
    arguments: Mapping[str, Argument]
    checker: Arguments = field(repr=False)

    def problems(self, values: Mapping[str, Any]) -> list[ValueProblem]:
        """All that is wrong with a map of arguments: unknown, missing and ill-typed ones."""
        return self.checker.problems(values)

    def converted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments as their declared types; raises `ArgumentError` naming all that is wrong."""
        problems = self.problems(values)
        if problems:
            raise refusal(self.name, problems)
        return self.checker.convert(values)  # type: ignore[no-any-return]


class Registry(Mapping[str, Entry]):
    """Names mapped to entries; a former name gives the entry of the new one."""

    def __init__(
        self,
        noun: str,
        *,
        skip: frozenset[str] = frozenset(),
        reserved: frozenset[str] = frozenset(),
        more: Callable[[Any], Iterable[Argument]] = lambda target: (),
    ) -> None:
        self.noun = noun
        self._more = more  # arguments that a target takes by its `**kwargs`
        self._skip = skip  # parameters that are not for specs
        self._reserved = reserved  # that need another name: theirs means something else in a spec
        self._entries: dict[str, Entry] = {}
        self._renamed: dict[str, str] = {}

    def register(self, name: str, *, formerly: Collection[str] = ()) -> Callable[[Target], Target]:
        """Return a decorator that registers a class or function under the name that specs use, and its former names."""
        if not isinstance(name, str):
            raise RegistrationError(
                f"a {self.noun} is registered under the name that specs use: write it in parentheses after the "
                f"decorator, in quotes; received {getattr(name, '__name__', None) or shown(name)}"
            )
        for each in (name, *formerly):
            if not _NAME.fullmatch(each):
                raise RegistrationError(
                    f"{each!r} is not a valid name for a {self.noun}; it consists of letters, digits, '_' and '-', and "
                    "begins with a letter"
                )

        def decorate(target: Target) -> Target:
            for each in (name, *formerly):
                if each in self:
                    text = f"{self.noun} '{each}' is already registered, by {_origin(self[each].target)}"
                    raise RegistrationError(f"{text}. Choose another name.")
            self._entries[name] = entry = self._entry(name, target)
            self._renamed.update(dict.fromkeys(formerly, name))
            if inspect.isclass(target):
                _check_when_made(target, entry)
            return target

        return decorate

    def former_names(self) -> Mapping[str, str]:
        """The deprecated names, each with the one that has replaced it."""
        return self._renamed

    def new_name(self, name: str) -> str:
        """The name that a deprecated one has been replaced by; any other name as it is."""
        return self._renamed.get(name, name)

    def _entry(self, name: str, target: Callable[..., Any]) -> Entry:
        signature_of = target.__init__ if inspect.isclass(target) else target
        what = f"{self.noun} '{name}' ({'class' if inspect.isclass(target) else 'function'} {target.__name__})"
        try:
            hints = typing.get_type_hints(signature_of, include_extras=True)
        except Exception as error:  # annotations are the user's own code
            raise RegistrationError(f"{what}: its annotations cannot be read: {error}") from error
        docs = _documented(target)
        parameters = [
            parameter
            for parameter in inspect.signature(signature_of).parameters.values()
            if parameter.name not in {"self", *self._skip} and parameter.kind is not parameter.VAR_KEYWORD
        ]
        wrong = {parameter.name: self._wrong(parameter, hints, docs) for parameter in parameters}
        arguments = {
            p.name: Argument(p.name, hints[p.name], p.default, (docs or {}).get(p.name, ""))
            for p in parameters
            if not wrong[p.name]
        }
        if _rest(inspect.signature(signature_of)):
            arguments.update({more.name: more for more in self._more(target) if more.name not in arguments})
        problems = [problem for problem in wrong.values() if problem]
        owner = f"{self.noun} '{name}'"
        try:
            checker = _checker(owner, arguments.values())
        except Exception:  # of pydantic, which has many kinds
            types = [argument for argument in arguments.values() if _is_type(argument)]
            problems += [f"the annotation of '{key}' is not a type" for key in arguments if arguments[key] not in types]
            checker = _checker(owner, types)
        defaults = {argument.name: argument.default for argument in checker.by_name.values() if not argument.required}
        for found in checker.problems(defaults):
            if found.kind != "missing" or len(found.path) > 1:
                problems.append(f"the default of '{found.path[0]}' {found.text}")
        if problems:
            raise RegistrationError(f"{what}: {'; '.join(problems)}")
        summary = inspect.cleandoc(target.__doc__ or "").partition("\n")[0]
        return Entry(name, target, summary, arguments, checker)

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
        """Remove names, after the file that registered them has failed."""
        for name in names:
            del self._entries[name]
            self._renamed = {old: new for old, new in self._renamed.items() if new != name}

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[self.new_name(name)]
        except KeyError:
            raise KeyError(f"no {self.noun} is called '{name}'. {suggest(name, self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.new_name(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _checker(owner: str, arguments: Collection[Argument]) -> Arguments:
    with warnings.catch_warnings(action="error", category=ArbitraryTypeWarning):
        return Arguments(owner, arguments)


def _is_type(argument: Argument) -> bool:
    try:
        _checker("", [argument])
    except Exception:  # of pydantic, which has many kinds
        return False
    return True


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
    if target.__module__.startswith("encapkeras."):
        return "encapkeras itself"
    return getattr(sys.modules.get(target.__module__), "__file__", None) or f"the module '{target.__module__}'"


def _check_when_made(cls: type, entry: Entry) -> None:
    original = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)
    rest = _rest(signature)

    @functools.wraps(original)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        others = bound.arguments.get(rest, {})
        given = {name: value for name, value in {**bound.arguments, **others}.items() if name in entry.arguments}
        converted = entry.converted({name: value for name, value in given.items() if value is not REQUIRED})
        for name, value in converted.items():
            (others if name in others else bound.arguments)[name] = value
        # Not an attribute that Keras or torch would track. A registered subclass has set its own before.
        self.__dict__.setdefault("_arguments", converted)
        original(*bound.args, **bound.kwargs)

    checked.__signature__ = signature  # type: ignore[attr-defined]  # Keras reads the arguments' names from it
    cls.__init__ = checked  # type: ignore[misc]


def _rest(signature: inspect.Signature) -> str:
    """The name of a signature's `**kwargs`; empty if it has none."""
    return next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")


def argument_docs(docstring: str, part: str = "Args") -> dict[str, str]:
    """What the `Args:` part of a Google-style docstring, or another of its parts, says of each name."""
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
