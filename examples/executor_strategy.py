"""A strategy of one's own: requests run in a thread pool of the program's own, which other work shares."""

import socket
from concurrent.futures import ThreadPoolExecutor

import attrs

from plugsocket import BlockingStrategy, Server, upper
from plugsocket.core.options import integer
from plugsocket.core.protocols import Job


@attrs.frozen(eq=False)
class InExecutor(BlockingStrategy):
    """Run requests in an executor, which stays the caller's; `capacity` of them at a time wait in it or run."""

    executor: ThreadPoolExecutor
    capacity: int = attrs.field(default=8, validator=integer(1))
    name = "executor"

    def spawn(self, job: Job) -> None:
        """Submit the job; an executor that was shut down raises, and the server closes the request."""
        self.executor.submit(job)


if __name__ == "__main__":
    with ThreadPoolExecutor(8) as executor, Server("tcp://127.0.0.1:0", upper, InExecutor(executor)).start() as server:
        client = socket.create_connection(server.addresses[0])
        client.sendall(b"hello")
        print(client.recv(100).decode())
        client.close()
