"""A plugsocket server under test: `serve_plugsocket.py ENDPOINT STRATEGY HANDLER`, a handler of `contender.py`."""

import sys

import contender

import plugsocket


def main() -> None:
    """Serve until killed."""
    endpoint, strategy, handler = sys.argv[1:]
    server = plugsocket.Server(endpoint, getattr(contender, handler), strategy)
    server.bind()

    def counters() -> dict[str, int]:
        stats = server.stats
        return {"accepted": stats.accepted, "lost": stats.failed + stats.refused + stats.accept_errors}

    contender.announce(server.addresses[0].port, counters)
    server.serve_forever()


if __name__ == "__main__":
    main()
