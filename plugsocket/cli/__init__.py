"""The command line: `plugsocket`, or `python -m plugsocket`."""

from plugsocket.cli.program import main as main
