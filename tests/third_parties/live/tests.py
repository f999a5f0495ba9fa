"""Run by Django's own runner; the test that runs that one counts them."""

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

from common import made_of, say
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.test import LiveServerTestCase

from live.models import Note
from live.urls import TOGETHER

BODY = bytes(range(256)) * 4096


class Live(LiveServerTestCase):
    host = "127.0.0.1"

    @classmethod
    def setUpClass(cls) -> None:
        cls.kept: list[HTTPConnection] = []
        cls.addClassCleanup(cls.close_kept)  # which comes after the end of the server
        super().setUpClass()
        say("server", made_of(type(cls.server_thread.httpd)))

    @classmethod
    def close_kept(cls) -> None:
        say("ended" if not cls.server_thread.is_alive() else "serves on")
        for connection in cls.kept:
            connection.close()

    def connect(self) -> HTTPConnection:
        connection = HTTPConnection(self.host, self.server_thread.port, timeout=20.0)
        self.addCleanup(connection.close)
        return connection

    def ask(self, connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
        connection.request(method, path, body)
        with connection.getresponse() as response:
            assert response.status == 200
            return response.read()

    def test_one_connection_serves_several_requests(self) -> None:
        connection = self.connect()
        for text in ("one", "two"):
            Note.objects.create(text=text)
            assert self.ask(connection, "GET", "/notes").endswith(text.encode())
        assert self.ask(connection, "POST", "/echo", BODY) == BODY

    def test_requests_are_served_together(self) -> None:
        with ThreadPoolExecutor() as clients:
            replies = clients.map(lambda _: self.ask(self.connect(), "GET", "/gather"), range(TOGETHER))
            assert list(replies) == [b"together"] * TOGETHER

    def test_not_found(self) -> None:
        connection = self.connect()
        connection.request("GET", "/nothing")
        with connection.getresponse() as response:
            assert response.status == 404

    def test_a_connection_that_is_kept_beyond_the_end(self) -> None:
        connection = HTTPConnection(self.host, self.server_thread.port, timeout=20.0)
        self.kept.append(connection)
        assert self.ask(connection, "POST", "/echo", b"kept") == b"kept"


class StaticLive(StaticLiveServerTestCase):
    host = "127.0.0.1"

    def test_static_files(self) -> None:
        connection = HTTPConnection(self.host, self.server_thread.port, timeout=20.0)
        self.addCleanup(connection.close)
        connection.request("GET", "/static/poem.txt")
        with connection.getresponse() as response:
            assert response.read() == (Path(__file__).parent / "static" / "poem.txt").read_bytes()
