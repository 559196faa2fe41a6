"""What our own layers and losses declare, read from their source: Keras and torch take seconds to import.

A layer is declared by its typed signature and its docstring alone, so both can be had without running its module: the
class is made again with its signature, its docstring and nothing else, and registered in a registry of its own. What
only Keras can judge, such as the name of an initializer, is not judged here, but noted.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pydantic

from encapkeras.registry import Entry, Registry
from encapkeras.validation import Argument

_PACKAGE = Path(__file__).resolve().parent
_NEED_SECONDS = ("keras", "torch")
_IMPORTED = ("encapkeras.errors", "encapkeras.registry", "encapkeras.text", "encapkeras.validation")
_METHODS = ("__init__", "call", "tensors")  # `call` and `tensors` declare what a side loss takes
_ATTRIBUTES = ("ports", "regularizable")
_KERAS_OBJECTS = ("initializer", "regularizer", "constraint", "activation")  # what names of arguments end with
_UNKNOWN = Annotated[Any, "a type that needs Keras"]


class NeedsKerasError(Exception):
    """A name whose value is not known without Keras or torch."""


class Declared(Mapping[str, Entry]):
    """What a package of ours registers, as its registry has it, but for what makes it; each is read when it is named.

    Args:
        package: `layers` or `losses`.
        decorator: Of its classes.
        undecided: Called for each value that only Keras can judge.
    """

    def __init__(self, package: str, decorator: str, undecided: Callable[[], None]) -> None:
        self._undecided = undecided
        self._sources = _Sources()
        self._registry: Registry = self._sources.module(f"encapkeras.{package}.registry").value(package.upper())
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[str, ast.Call]] = {}  # the module of each name, and how it is registered there
        self._former: dict[str, str] = {}
        for file in sorted((_PACKAGE / package).glob("*.py")):
            for line in re.findall(rf"^@({decorator}\(.*\))$", file.read_text("utf-8"), re.MULTILINE):
                call: ast.Call = ast.parse(line, mode="eval").body
                name = ast.literal_eval(call.args[0])
                self._places[name] = (f"encapkeras.{package}.{file.stem}", call)
                self._former.update(dict.fromkeys(_options(call).get("formerly", ()), name))

    def __getitem__(self, name: str) -> Entry:
        name = self._former.get(name, name)
        if name not in self._entries:
            place, call = self._places[name]
            cls = self._sources.module(place).decorated(ast.unparse(call))
            self._registry.register(name, **_options(call))(cls)
            entry = self._registry[name]
            arguments = {key: self._judging(argument) for key, argument in entry.arguments.items()}
            self._entries[name] = replace(entry, arguments=arguments)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._former

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _judging(self, argument: Argument) -> Argument:
        """The argument, whose check leaves to Keras what names an object of Keras."""
        takes_object = argument.name.rpartition("_")[2] in _KERAS_OBJECTS

        def check(value: Any, by_type: Callable[[Any], Any]) -> Any:
            is_object = isinstance(value, dict) and ("class_name" in value or "module" in value)
            if not (takes_object or is_object or _holds_unknown(argument.annotation)):
                return by_type(value)
            self._undecided()
            return value

        return replace(argument, annotation=Annotated[argument.annotation, pydantic.WrapValidator(check)])


def _options(call: ast.Call) -> dict[str, Any]:
    return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


def _holds_unknown(annotation: Any) -> bool:
    return annotation is _UNKNOWN or any(map(_holds_unknown, typing.get_args(annotation)))


class _Sources:
    """Modules of ours by name, each read once."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}

    def module(self, name: str) -> _Module:
        """A module, which is not imported."""
        if name not in self._modules:
            self._modules[name] = _Module(name, self)
        return self._modules[name]


class _Module:
    """The names of a module, each of which gets its value when it is asked for."""

    def __init__(self, name: str, sources: _Sources) -> None:
        path = _PACKAGE.joinpath(*name.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self._statements = dict(_bindings(ast.parse(file.read_text("utf-8"))))
        self._values: dict[str, Any] = {"__name__": name, "__builtins__": builtins}
        self._sources = sources

    def decorated(self, decorator: str) -> Any:
        """The class below a decorator."""
        classes = [statement for statement in self._statements.values() if isinstance(statement, ast.ClassDef)]
        return self.value(next(c.name for c in classes if decorator in map(ast.unparse, c.decorator_list)))

    def value(self, name: str) -> Any:
        """The value of a name; raises `NeedsKerasError`."""
        if name not in self._values:
            statement = self._statements[name]
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._values[name] = self._imported(name, statement)
            else:
                if isinstance(statement, ast.ClassDef) and not _is_settings(statement):
                    statement = self._declaration(statement)
                self._run(_untyped(statement))
        return self._values[name]

    def _value_or_unknown(self, name: str) -> None:
        """Give a name its value, or one that says that only Keras knows it."""
        try:
            self.value(name)
        except NeedsKerasError:
            self._values[name] = _UNKNOWN

    def _imported(self, name: str, statement: ast.Import | ast.ImportFrom) -> Any:
        if isinstance(statement, ast.Import):
            module, attribute = next(a.name for a in statement.names if (a.asname or a.name) == name), ""
        else:
            module = str(statement.module)
            attribute = next(a.name for a in statement.names if (a.asname or a.name) == name)
        if module.partition(".")[0] in _NEED_SECONDS:
            raise NeedsKerasError(name)
        if module.startswith("encapkeras.") and module not in _IMPORTED:
            return self._sources.module(module).value(attribute)
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found

    def _run(self, statement: ast.stmt) -> None:
        """Execute a statement after those that give values to the names in it."""
        for name in self._names(statement):
            if isinstance(statement, ast.FunctionDef) and _is_type(self._statements[name]):
                self._value_or_unknown(name)
            else:
                self.value(name)
        code = ast.fix_missing_locations(ast.Module([statement], []))
        # The types of settings as such, not as text: pydantic looks for the names in it in imported modules.
        made = compile(code, str(self._values["__name__"]), "exec", dont_inherit=_is_settings(statement))
        exec(made, self._values)  # noqa: S102  # our own

    def _names(self, node: ast.AST) -> set[str]:
        """The names of this module that have to have values first."""
        read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        return {name for name in read if name in self._statements and name != getattr(node, "name", "")}

    def _declaration(self, cls: ast.ClassDef) -> ast.ClassDef:
        """The class with its signature and docstring alone, and with those of its bases that are ours."""
        body: list[ast.stmt] = [ast.Expr(ast.Constant(ast.get_docstring(cls, clean=False) or ""))]
        for statement in cls.body:
            body += [
                ast.Assign([name], value) for name, value in _assigned(statement) if ast.unparse(name) in _ATTRIBUTES
            ]
            if isinstance(statement, ast.FunctionDef) and statement.name in _METHODS:
                body.append(self._signature(statement))
        bases = [base for base in cls.bases if isinstance(base, ast.Name)]  # that of Keras has a dot
        return ast.ClassDef(cls.name, bases, [], body, [], **_TYPE_PARAMETERS)  # type: ignore[arg-type]

    def _signature(self, method: ast.FunctionDef) -> Any:
        if method.name == "tensors":
            return _untyped(method)
        if method.name == "call":
            method = _untyped(method)
        for name in {name for each in _arguments(method) if each.annotation for name in self._names(each.annotation)}:
            self._value_or_unknown(name)
        return ast.FunctionDef(method.name, method.args, [ast.Pass()], [], **_TYPE_PARAMETERS)


_TYPE_PARAMETERS: dict[str, Any] = {"type_params": []} if hasattr(ast, "TypeVar") else {}  # since Python 3.12


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, ast.Assign([node.target], node.value)


def _assigned(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(statement, ast.AnnAssign) and statement.value:
        yield statement.target, statement.value
    elif isinstance(statement, ast.Assign):
        yield statement.targets[0], statement.value


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    given = function.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]


def _is_settings(statement: ast.stmt) -> bool:
    """Whether a statement is a class of settings, the type of an argument, which needs neither Keras nor torch."""
    return isinstance(statement, ast.ClassDef) and "Settings" in map(ast.unparse, statement.bases)


def _is_type(statement: ast.stmt) -> bool:
    """Whether a statement gives a name to a type, or may import one."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module not in _NEED_SECONDS
    return isinstance(statement, ast.Assign) and ast.unparse(statement.value).startswith("Annotated[")


def _untyped(statement: ast.stmt) -> Any:
    """A function without its annotations, which nothing reads; any other statement as it is."""
    if isinstance(statement, ast.FunctionDef):
        statement.returns = None
        for argument in _arguments(statement):
            argument.annotation = None
    return statement
