"""`python -m bszo`, which is the command `bszo`."""

import sys

from bszo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
