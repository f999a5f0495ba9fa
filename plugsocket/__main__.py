"""`python -m plugsocket`: the command line."""

import sys

from plugsocket.cli import main

if __name__ == "__main__":
    sys.exit(main())
