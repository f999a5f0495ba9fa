"""The load generator: `load.py tcp|open|idle|udp ADDRESS COUNT`. It prints one line of JSON and ends with its input.

The address is a port, or the path of a Unix socket.

The exit status is 0 if every echo was right. Raw sockets and one `poll`, since it has to be faster than what it
measures. It always has `AT_ONCE` requests under way.
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


Address = tuple[str, int] | str
"""Host and port, or a path."""


def family_of(address: Address) -> int:
    """Tell the family of an address."""
    return socket.AF_UNIX if isinstance(address, str) else socket.AF_INET


class WrongEchoError(Exception):
    """What came back is not what was sent."""


def _check(got: bytes, sent: bytes) -> None:
    if got != sent:
        raise WrongEchoError(f"{got!r} came back for {sent!r}")


def connections(address: Address, count: int) -> int:
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
        sock = socket.socket(family_of(address), socket.SOCK_STREAM)
        sock.connect(address)
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
            _check(got, message)
            right += 1
            poll.unregister(fileno)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            if begun < count:
                begin(begun)
                begun += 1
    return right


def conversation(address: Address, count: int) -> int:
    """Send requests over `AT_ONCE` connections that stay open, and receive the replies: `count` times in all.

    Returns:
        How many echoes were right.

    Raises:
        WrongEchoError: one was not.
        OSError: a connection failed.
        TimeoutError: nothing came back any more.
    """
    poll = select.poll()
    under_way: dict[int, tuple[socket.socket, bytes]] = {}
    begun = right = 0
    for begun, sock in enumerate(_connected(address, min(count, AT_ONCE))):
        message = b"request %8d" % begun
        sock.send(message)
        poll.register(sock, select.POLLIN)
        under_way[sock.fileno()] = sock, message
    begun += 1
    while right < count:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise TimeoutError(f"{count - right} requests got no answer")
        for fileno, _ in ready:
            sock, message = under_way[fileno]
            _check(sock.recv(len(message) + 1), message)
            right += 1
            if begun < count:
                message = b"request %8d" % begun
                sock.send(message)
                under_way[fileno] = sock, message
                begun += 1
    return right


def idle(address: Address, count: int) -> int:
    """Open `count` connections that stay open, each after one echo, so that its handler is known to wait.

    Returns:
        How many echoes were right.

    Raises:
        WrongEchoError: one was not.
        OSError: a connection failed.
    """
    right = 0
    while right < count:
        batch = _connected(address, min(count - right, AT_ONCE))
        for sock in batch:
            sock.send(b"request")
        for sock in batch:
            _check(sock.recv(8), b"request")
            right += 1
    return right


def _connected(address: Address, count: int) -> list[socket.socket]:
    """Open connections, which end with this process."""
    socks = [socket.socket(family_of(address), socket.SOCK_STREAM) for _ in range(count)]
    for sock in socks:
        sock.settimeout(PATIENCE / 1000)
        sock.connect(address)
    kept.extend(socks)
    return socks


kept: list[socket.socket] = []


def datagrams(address: Address, count: int) -> int:
    """Send datagrams and receive the replies: `count` times.

    Returns:
        How many echoes were right.

    Raises:
        WrongEchoError: one was not, or came twice.
        TimeoutError: nothing came back any more.
    """
    family = family_of(address)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE / 1000)
        if family != socket.AF_INET:
            sock.bind("")  # a name that the system chooses, to which the server can reply (unix(7))
        sock.connect(address)
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
    """Run the load; tell how it went.

    That is how many echoes were right, how many connections or datagrams the server has to count, the seconds that it
    took, and those of the processor.
    """
    kind, count = sys.argv[1], int(sys.argv[3])
    address: Address = (HOST, int(sys.argv[2])) if sys.argv[2].isdigit() else sys.argv[2]
    run = {"tcp": connections, "open": conversation, "idle": idle, "udp": datagrams}[kind]
    began, cpu = time.perf_counter(), time.process_time()
    right = run(address, count)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    sys.stdout.write(json.dumps({"right": right, "came": len(kept) or right, "seconds": seconds, "cpu": cpu}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
