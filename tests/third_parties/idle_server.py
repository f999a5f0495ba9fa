"""The server inside of IDLE, which runs the user's programs: it connects to its only client instead of listening."""

import sys
from idlelib.rpc import RPCHandler, RPCServer

from common import made_of, say


class Calculator:
    def add(self, one: int, other: int) -> int:
        return one + other

    def leave(self) -> None:
        say("leaving")
        sys.exit()


class Handler(RPCHandler):
    def handle(self) -> None:
        self.register("calculator", Calculator())
        super().handle()


if __name__ == "__main__":
    with RPCServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        say(made_of(type(server)))
        server.handle_request()
    say("never said")
