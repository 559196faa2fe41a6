"""Trains the network that a spec file describes: `python train.py specs/quickstart.yaml`."""
# ruff: noqa: UP031, UP036  # an old Python has to parse this file to print the first message

import sys

if sys.version_info < (3, 11):
    sys.exit("encapkeras needs Python 3.11 or newer; %s is Python %d.%d." % (sys.executable, *sys.version_info[:2]))

from importlib.util import find_spec

if find_spec("keras") is None or find_spec("torch") is None:
    sys.exit(
        "encapkeras is not installed for %s. Activate the environment that has it, or run: %s -m pip install -e ."
        % (sys.executable, sys.executable)
    )

from encapkeras.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], script="train.py"))
