"""The console script `encapkeras`. Each command is a file in this folder; heavy imports happen when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from encapkeras import __version__
from encapkeras.cli import (
    analyse,
    bench,
    check,
    compare,
    evaluate,
    explain,
    export,
    export_weights,
    import_weights,
    new,
    pack,
    predict,
    pull,
    push,
    runs,
    schema,
    search,
    show,
    specs,
    train,
)
from encapkeras.cli import format as format_spec
from encapkeras.cli.arguments import devices
from encapkeras.cli.arguments.completion import answer_shell
from encapkeras.cli.arguments.device import use_device
from encapkeras.cli.arguments.first_look import look_first
from encapkeras.cli.arguments.parser import DEBUG, Parser
from encapkeras.cli.arguments.wrong_words import check_extra, check_words
from encapkeras.cli.terminal.spec_errors import print_problems
from encapkeras.cli.terminal.streams import safe_output
from encapkeras.errors import (
    LONGEST_NAME,
    ArgumentError,
    DistributionError,
    EncapkerasError,
    SpecError,
    environment_number,
    launched_with,
    printable,
)
from encapkeras.text import cut

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "train": (train, "train the network of a spec"),
    "compare": (compare, "train several networks with several seeds each, and compare them"),
    "search": (search, "search for the settings with which a network validates best, with Optuna"),
    "runs": (runs, "list the runs in a folder, and how far each has come"),
    "evaluate": (evaluate, "measure a trained network again"),
    "predict": (predict, "classify images with a trained network"),
    "explain": (explain, "show where in images a trained network sees its classes"),
    "analyse": (analyse, "show what the routing layers of a trained network do"),
    "check": (check, "find the errors in a spec"),
    "show": (show, "show a network: its nodes, their costs, pictures, the difference from another"),
    "new": (new, "write a commented spec to start from"),
    "specs": (specs, "list the specs that come with encapkeras, or print one"),
    "format": (format_spec, "convert a spec to JSON or YAML"),
    "schema": (schema, "write the JSON Schema with which editors help to write specs"),
    "export": (export, "write a trained network as a file for other programs"),
    "pack": (pack, "write a trained network into a folder, with a card, for others to use"),
    "push": (push, "upload a packed network to the Hugging Face hub"),
    "pull": (pull, "download a packed network from the Hugging Face hub"),
    "import-weights": (import_weights, "convert a checkpoint of the original code to a network"),
    "export-weights": (export_weights, "convert a network to a checkpoint for the original code"),
    "bench": (bench, "time a part of encapkeras on this machine"),
}

EXAMPLES = (
    "encapkeras train quickstart                  # a small network: no download, no GPU",
    "encapkeras specs                             # the networks that come with encapkeras",
    "encapkeras new mine.yaml --dataset cifar10   # a spec of your own",
)
PAGE = "first_run.md"
HELP = "help"
INTERRUPTED = 130  # what shells expect after Ctrl-C: 128 + SIGINT


def main(argv: Sequence[str] | None = None, script: str | None = None) -> int:
    """Run one command; return 0 for success, 2 for an error in the input, 130 after Ctrl-C.

    Output that cannot be written does not end the command; it then returns 1. A script that is the command train gives
    its name, for the help.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # torch's threads wait for each other by spinning, which costs several times the work itself once anything else
    # needs a core. OpenMP reads this when torch is first imported. Benchmarks have the machine to themselves, and
    # measure what a user's own script would see.
    if next((word for word in words if word != DEBUG), "") != "bench":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with safe_output() as output:
        code = _run(words, script)
        output.flush()
        if output.failure and not isinstance(output.failure, BrokenPipeError):  # as `| head` ends it
            print(f"the output could not be written: {output.failure.strerror}", file=sys.stderr)
    return code or (1 if output.failure else 0)


def _run(words: list[str], script: str | None) -> int:
    debug = os.environ.get("ENCAPKERAS_DEBUG", "0") not in ("", "0")
    try:
        arguments = _parse(words, script)
        debug = debug or arguments.debug
        _check_folder()
        if arguments.run is not train.run and environment_number("WORLD_SIZE", 1) > 1:
            raise DistributionError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes; only the command train works in several. "
                "Start this one without torchrun."
            )
        import encapkeras.backend  # noqa: F401  # refuses another Keras backend

        specs = arguments.specs_of(arguments)
        plugins, alone = getattr(arguments, "plugins", []), not devices.wants_processes(arguments)
        look_first(specs, plugins, shapes=arguments.run is not train.run, alone=alone)
        wanted = devices.read_devices(arguments)
        if wanted:
            from encapkeras.cli.launch import launch

            return launch(wanted, words)
        with use_device(getattr(arguments, "run_on", None)):  # before a plugin imports Keras
            for plugin in plugins:
                from encapkeras.plugins import load_plugin

                load_plugin(plugin)
            code: int = arguments.run(arguments)
        return code
    except SystemExit as stop:  # argparse ends so after --help, or after it printed what is wrong
        return stop.code if isinstance(stop.code, int) else 2
    except (Exception, KeyboardInterrupt) as error:
        failure = _print_error(error)
        if failure is None:
            raise  # a bug of ours, which its traceback explains best
        if debug:
            traceback.print_exception(error)
        return failure


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError:  # torch would end the process
        raise ArgumentError("the working folder does not exist any more. Change to another one with cd.") from None


def _print_error(error: Exception | KeyboardInterrupt) -> int | None:
    """Print what went wrong and return the exit code; None for a bug of ours."""
    if isinstance(error, SpecError):
        print_problems(error.problems, error.summary)
        return error.exit_code
    if isinstance(error, EncapkerasError):
        print(error, file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        if launched_with():  # the launcher ends by SIGTERM what is slow to end, and would say the same again
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.environ.get("RANK", "0") == "0":  # torchrun's other processes are interrupted too
            print(str(error) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    place = _line_in_plugin(error)
    if place:
        from encapkeras.model.build import plain_text

        print(f"{place}: {type(error).__name__}: {plain_text(error)}", file=sys.stderr)
    elif isinstance(error, OSError):
        print(_of_the_system(error), file=sys.stderr)
    else:
        return None
    return EncapkerasError.exit_code


def _of_the_system(error: OSError) -> str:
    """Return what the operating system refuses, such as a name of 5,000 characters."""
    name = f"'{cut(printable(str(error.filename)), LONGEST_NAME)}': " if error.filename else ""
    return f"{name}{error.strerror or error}. {DEBUG} shows where this happened."


def _line_in_plugin(error: Exception) -> str:
    """Return where in a plugin an error arose; empty if it has nothing to do with one."""
    if "encapkeras.plugins" not in sys.modules:
        return ""
    from encapkeras.plugins import line_in_plugin

    return line_in_plugin(error)


def _parse(words: list[str], script: str | None) -> argparse.Namespace:
    parser = _parser()
    if script:
        parser.commands["train"].is_script(script)
    answer_shell(parser)
    place = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    if words[place : place + 1] == [HELP]:
        words = [*words[:place], *words[place + 1 :], "--help"]
    command = check_words(parser, words)
    arguments, extra = parser.parse_known_args(words)
    check_extra(command, extra)
    return arguments


def _parser() -> Parser:
    about = "Capsule networks from spec files: train, measure, look inside."
    parser = Parser(prog="encapkeras", description=about, examples=EXAMPLES, page=PAGE)
    parser.add_argument("-V", "--version", action="version", version=f"encapkeras {__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            examples=module.EXAMPLES,
            page=module.PAGE,
        )
        command.set_defaults(run=module.run, specs_of=getattr(module, "specs_of", lambda _: []))
        module.add_arguments(command)
    helper = commands.add_parser(HELP, help="explain a command", examples=EXAMPLES, page=PAGE)
    helper.add_argument("command", metavar="COMMAND", nargs="*")
    return parser
