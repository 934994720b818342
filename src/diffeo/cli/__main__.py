"""`python -m diffeo.cli`, where the command `diffeo` is not on the path."""

import sys

from diffeo.cli import main

if __name__ == "__main__":
    sys.exit(main())
