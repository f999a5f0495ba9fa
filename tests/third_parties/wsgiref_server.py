"""The standard library's server of WSGI: two requests, each waited for by itself, and then as many as come."""

import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import make_server
from wsgiref.validate import validator

from common import made_of, say


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield environ["PATH_INFO"].encode()
    yield body


if __name__ == "__main__":
    with make_server("127.0.0.1", 0, validator(application)) as server:
        say(made_of(type(server)), server.server_port)
        server.handle_request()
        server.handle_request()
        say("two")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sys.stdin.readline()
        server.shutdown()
        thread.join()
        say("stopped")
