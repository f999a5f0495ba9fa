"""Werkzeug's development server. Its arguments: options of `run_simple`, and where it listens, as JSON."""

import json
import os
import sys
import threading
from typing import Any

from common import made_of, meet
from werkzeug.serving import WSGIRequestHandler, run_simple
from werkzeug.wrappers import Request, Response


class Handler(WSGIRequestHandler):
    def make_environ(self) -> dict[str, Any]:
        return {**super().make_environ(), "server": self.server}


@Request.application
def application(request: Request) -> Response:
    if request.path == "/echo":
        return Response(request.get_data())
    if request.path == "/meet":
        meet()
    return Response(
        json.dumps(
            {
                "server": made_of(type(request.environ["server"])),
                "process": os.getpid(),
                "thread": threading.current_thread() is not threading.main_thread(),
                "scheme": request.scheme,
            }
        )
    )


if __name__ == "__main__":
    host, options = sys.argv[1], json.loads(sys.argv[2])
    if "ssl_context" in options:
        options["ssl_context"] = tuple(options["ssl_context"])  # JSON knows only lists
    run_simple(host, 0, application, request_handler=Handler, **options)
