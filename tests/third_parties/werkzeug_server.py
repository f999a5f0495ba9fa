"""Werkzeug's development server. Its arguments: options of `run_simple`, and where it listens, as JSON."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from common import made_of, meet
from werkzeug.serving import WSGIRequestHandler, run_simple
from werkzeug.wrappers import Request, Response


class Handler(WSGIRequestHandler):
    def make_environ(self) -> dict[str, Any]:
        return {**super().make_environ(), "server": self.server}


def siblings() -> int:
    """How many children the parent has, of which this process is one if the server forks."""
    parent = os.getppid()
    return len(Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


@Request.application
def application(request: Request) -> Response:
    if request.path == "/echo":
        return Response(request.get_data())
    said = {
        "server": made_of(type(request.environ["server"])),
        "process": os.getpid(),
        "siblings": siblings(),
        "thread": threading.current_thread() is not threading.main_thread(),
        "scheme": request.scheme,
    }
    if request.path == "/meet":
        meet()
    return Response(json.dumps(said))


if __name__ == "__main__":
    host, options = sys.argv[1], json.loads(sys.argv[2])
    if "ssl_context" in options:
        options["ssl_context"] = tuple(options["ssl_context"])  # JSON knows only lists
    run_simple(host, 0, application, request_handler=Handler, **options)
