"""`python -m ostinato`: the same as the command `ostinato`."""

import sys

from ostinato.cli import main

sys.exit(main())
