"""`python -m encapkeras` is the command `encapkeras`."""

import sys

from encapkeras.cli.main import main

sys.exit(main())
