"""A server that greets whoever connects."""

import plugsocket


def greet(connection: plugsocket.Connection) -> None:
    """Handle one connection: ask for a name, and greet."""
    connection.sendall(b"Who is there?\n")
    name = connection.recv(100).strip()
    connection.sendall(b"Hello, " + name + b"!\n")


plugsocket.run("tcp://127.0.0.1:9999", greet, started=print)
