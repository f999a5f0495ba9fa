"""Run by Django's own runner; the test that runs that one counts them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from common import made_of, say
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.core.servers.basehttp import ThreadedWSGIServer
from django.db import connections
from django.test import LiveServerTestCase
from django.test.testcases import LiveServerThread

from live.models import Note
from live.urls import TOGETHER

BODY = bytes(range(256)) * 4096
TIMEOUT = 20.0


class CountingServer(ThreadedWSGIServer):
    """Counts its connections.

    A thread that closes one shares the database with the test while this lasts, and fails if it comes too late.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.connections = 0
        self.changed = threading.Condition()
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._count(1)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        self._count(-1)

    def _count(self, difference: int) -> None:
        with self.changed:
            self.connections += difference
            self.changed.notify_all()

    def wait(self, connections: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.connections == connections, TIMEOUT)


class CountingThread(LiveServerThread):
    server_class = CountingServer


class Asking:
    """What both kinds of test case have in common."""

    host = "127.0.0.1"
    server_thread_class = CountingThread

    def connect(self) -> Any:
        return closing(HTTPConnection(self.host, self.server_thread.port, timeout=TIMEOUT))

    def ask(self, connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
        connection.request(method, path, body)
        with connection.getresponse() as response:
            assert response.status == 200
            return response.read()


class Live(Asking, LiveServerTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.kept: list[int] = []  # descriptors of connections that stay open until the end of the process
        cls.addClassCleanup(cls.say_the_end)  # which comes after the end of the server
        super().setUpClass()
        say("server", made_of(type(cls.server_thread.httpd)))

    @classmethod
    def say_the_end(cls) -> None:
        say("serves on" if cls.server_thread.is_alive() else "ended", len(cls.kept))

    def tearDown(self) -> None:
        assert self.server_thread.httpd.wait(connections=len(self.kept))

    def test_a_connection_that_is_kept_beyond_the_end(self) -> None:
        with self.connect() as connection:
            assert self.ask(connection, "POST", "/echo", b"kept") == b"kept"
            self.kept.append(connection.sock.detach())

    def test_one_connection_serves_several_requests(self) -> None:
        with self.connect() as connection:
            connection.connect()
            sock = connection.sock
            for text in ("one", "two"):
                Note.objects.create(text=text)
                assert self.ask(connection, "GET", "/notes").endswith(text.encode())
            assert self.ask(connection, "POST", "/echo", BODY) == BODY
            assert self.ask(connection, "GET", "/database") == str(id(connections["default"])).encode()  # it is shared
            assert connection.sock is sock

    def test_requests_are_served_together(self) -> None:
        def gather(_: int) -> bytes:
            with self.connect() as connection:
                return self.ask(connection, "GET", "/gather")

        with ThreadPoolExecutor() as clients:
            assert list(clients.map(gather, range(TOGETHER))) == [b"together"] * TOGETHER

    def test_not_found(self) -> None:
        with self.connect() as connection:
            connection.request("GET", "/nothing")
            with connection.getresponse() as response:
                assert response.status == 404
                response.read()  # closing with a part unread would reset the connection, which the server logs


class StaticLive(Asking, StaticLiveServerTestCase):
    def tearDown(self) -> None:
        assert self.server_thread.httpd.wait(connections=0)

    def test_static_files(self) -> None:
        expected = Path(__file__).parent / "static" / "poem.txt"
        with self.connect() as connection:
            assert self.ask(connection, "GET", "/static/poem.txt") == expected.read_bytes()
