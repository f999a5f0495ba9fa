"""The load generator: `load.py tcp|udp PORT COUNT`. It prints one line of JSON and exits 0 if every echo was right.

Raw sockets and one `poll`, since it has to be faster than what it measures. It always has `AT_ONCE` requests under way.
"""

import json
import select
import socket
import struct
import sys
import time

AT_ONCE = 32
HOST = "127.0.0.1"
PATIENCE = 10_000  # milliseconds without any answer after which the run has failed

# Closing sends a reset, and so no port stays in TIME_WAIT. The server is done with the connection by then.
RESET = struct.pack("ii", 1, 0)
# Readiness once the server has closed, by when the echo is there too: one event a connection. Where poll() cannot tell
# that, the event is the echo, and `recv` waits for the rest.
CLOSED: int = getattr(select, "POLLRDHUP", select.POLLIN)


class WrongEchoError(Exception):
    """What came back is not what was sent."""


def connections(port: int, count: int) -> int:
    """Connect, send, receive up to end of file, close: `count` times.

    Returns:
        How many echoes were right.

    Raises:
        WrongEchoError: one was not.
        OSError: a connection failed.
        TimeoutError: nothing came back any more.
    """
    poll = select.poll()
    open_ones: dict[int, tuple[socket.socket, bytes]] = {}

    def begin(number: int) -> None:
        message = b"request %8d" % number
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.connect((HOST, port))
        sock.send(message)
        poll.register(sock, CLOSED)
        open_ones[sock.fileno()] = sock, message

    begun = min(count, AT_ONCE)
    for number in range(begun):
        begin(number)
    right = 0
    while open_ones:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise TimeoutError(f"{len(open_ones)} connections got no answer")
        for fileno, _ in ready:
            sock, message = open_ones.pop(fileno)
            got = sock.recv(len(message) + 1, socket.MSG_WAITALL)
            if got != message:
                raise WrongEchoError(f"{got!r} came back for {message!r}")
            right += 1
            poll.unregister(fileno)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            if begun < count:
                begin(begun)
                begun += 1
    return right


def datagrams(port: int, count: int) -> int:
    """Send datagrams and receive the replies: `count` times.

    Returns:
        How many echoes were right.

    Raises:
        WrongEchoError: one was not, or came twice.
        TimeoutError: nothing came back any more.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE / 1000)
        sock.connect((HOST, port))
        under_way = {b"request %8d" % number for number in range(min(count, AT_ONCE))}
        for message in under_way:
            sock.send(message)
        begun, right = len(under_way), 0
        while under_way:
            got = sock.recv(1024)
            if got not in under_way:
                raise WrongEchoError(f"{got!r} came back, which nobody waits for")
            under_way.remove(got)
            right += 1
            if begun < count:
                message = b"request %8d" % begun
                under_way.add(message)
                sock.send(message)
                begun += 1
    return right


def main() -> None:
    """Run the load; tell how many echoes were right, the seconds that it took and those of the processor."""
    kind, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run = {"tcp": connections, "udp": datagrams}[kind]
    began, cpu = time.perf_counter(), time.process_time()
    right = run(port, count)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    sys.stdout.write(json.dumps({"right": right, "seconds": seconds, "cpu": cpu}) + "\n")


if __name__ == "__main__":
    main()
