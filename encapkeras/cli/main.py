"""The console script `encapkeras`. Each command is a file in this folder; heavy imports happen when it runs."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from encapkeras import __version__
from encapkeras.cli import (
    analyse,
    bench,
    check,
    compare,
    evaluate,
    export,
    export_weights,
    import_weights,
    new,
    predict,
    runs,
    schema,
    show,
    specs,
    train,
)
from encapkeras.cli import format as format_spec
from encapkeras.cli.arguments.device import use_device
from encapkeras.cli.terminal.spec_errors import print_problems
from encapkeras.errors import DistributionError, EncapkerasError, SpecError, suggest

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "train": (train, "train the network of a spec"),
    "compare": (compare, "train several networks with several seeds each, and compare them"),
    "runs": (runs, "list the runs in a folder, and how far each has come"),
    "evaluate": (evaluate, "measure a trained network again"),
    "predict": (predict, "classify images with a trained network"),
    "analyse": (analyse, "show what the routing layers of a trained network do"),
    "check": (check, "find the errors in a spec"),
    "show": (show, "show a network: its nodes, their costs, pictures, the difference from another"),
    "new": (new, "write a commented spec to start from"),
    "specs": (specs, "list the specs that come with encapkeras, or print one"),
    "format": (format_spec, "convert a spec to JSON or YAML"),
    "schema": (schema, "write the JSON Schema with which editors help to write specs"),
    "export": (export, "write a trained network as a file for other programs"),
    "import-weights": (import_weights, "convert a checkpoint of the original code to a network"),
    "export-weights": (export_weights, "convert a network to a checkpoint for the original code"),
    "bench": (bench, "time a part of encapkeras on this machine"),
}

INTERRUPTED = 130  # what shells expect after Ctrl-C: 128 + SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 for success, 2 for an error in the input, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    # torch's threads wait for each other by spinning, which costs several times the work itself once anything else
    # needs a core. OpenMP reads this when torch is first imported. Benchmarks have the machine to themselves, and
    # measure what a user's own script would see.
    if words[:1] != ["bench"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that lacks a character, such as ±, shows another. On stderr Python does that itself.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does. Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    try:
        arguments = _parse(words)
        if arguments.run is not train.run and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise DistributionError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes; only the command train works in several. "
                "Start this one without torchrun."
            )
        import encapkeras.backend  # noqa: F401  # refuses another Keras backend

        with use_device(getattr(arguments, "run_on", None)):  # before a plugin imports Keras
            for plugin in getattr(arguments, "plugins", []):
                from encapkeras.plugins import load_plugin

                load_plugin(plugin)
            code: int = arguments.run(arguments)
        return code
    except SpecError as error:
        print_problems(error.problems, error.summary)
        return error.exit_code
    except EncapkerasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":  # torchrun's other processes are interrupted too
            print(str(stop) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        place = _line_in_plugin(error)
        if not place:
            raise  # a bug of ours, which its traceback explains best
        from encapkeras.model.build import plain_text

        print(f"{place}: {type(error).__name__}: {plain_text(error)}", file=sys.stderr)
        return EncapkerasError.exit_code
    except SystemExit as stop:  # argparse ends so after --help, or after it printed what is wrong
        return stop.code if isinstance(stop.code, int) else 2


def _line_in_plugin(error: Exception) -> str:
    """Return where in a plugin an error arose; empty if it has nothing to do with one."""
    if "encapkeras.plugins" not in sys.modules:
        return ""
    from encapkeras.plugins import line_in_plugin

    return line_in_plugin(error)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="encapkeras", description="Capsule networks from spec files: train, measure, look inside."
    )
    parser.add_argument("--version", action="version", version=f"encapkeras {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        parser.error(f"'{words[0]}' is not a command. {suggest(words[0], COMMANDS)}")
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        hint = ""
        if hasattr(arguments, "overrides"):
            hint = ". Settings of the spec are changed with --set, for example --set train.epochs=3"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return arguments
