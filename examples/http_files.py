"""Serve the files of a folder over HTTP, with the standard library's request handler, at whatever endpoint is given.

Run it as `python http_files.py tcp://127.0.0.1:8000 FOLDER`, or as `python http_files.py unix://files.sock FOLDER`,
which `curl --unix-socket files.sock http://localhost/` asks.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler

from plugsocket import Server, Thread


def make_server(endpoint: str, folder: str) -> Server:
    """Compose the server; further clients wait while 16 are served."""
    return Server(endpoint, partial(SimpleHTTPRequestHandler, directory=folder), Thread(max_workers=16))


def announce(server: Server) -> None:
    """Say where the server is, once it accepts."""
    print("serving at", *server.urls)


if __name__ == "__main__":
    endpoint, folder = sys.argv[1:] or ("tcp://127.0.0.1:8000", ".")
    make_server(endpoint, folder).run(started=announce)
