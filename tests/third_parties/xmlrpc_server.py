"""The standard library's server of XML-RPC, of the class that is its argument, until Ctrl-C."""

import socketserver
import sys
from xmlrpc.server import DocXMLRPCServer, SimpleXMLRPCServer

from common import made_of, meet, say


class Threading(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    pass


class Forking(socketserver.ForkingMixIn, DocXMLRPCServer):
    pass


def add(one: int, other: int) -> int:
    """Add numbers."""
    return one + other


def meeting() -> str:
    meet()
    return "met"


if __name__ == "__main__":
    kinds = {"plain": SimpleXMLRPCServer, "thread": Threading, "fork": Forking}
    with kinds[sys.argv[1]](("127.0.0.1", 0), logRequests=False, allow_none=True) as server:
        server.register_introspection_functions()
        server.register_multicall_functions()
        server.register_function(add)
        server.register_function(meeting)
        say(made_of(type(server)), server.server_address[1])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("interrupted")
