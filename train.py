"""Trains the network that a spec file describes: `python train.py specs/quickstart.yaml`."""

import sys

from encapkeras.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
