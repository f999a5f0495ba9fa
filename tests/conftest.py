"""What every test has: a count of what it leaves behind, and a recorder of events."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugsocket.testing import EventRecorder as Recorder
from tests.economy import give_memory_back, remember_plugins
from tests.leftovers import leaving_nothing


def pytest_configure() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has ignored in what it runs beside itself
    give_memory_back()
    remember_plugins()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Count descriptors, threads, children and socket files before and after each test."""
    with leaving_nothing(tmp_path):
        yield


@pytest.fixture
def recorder() -> Recorder:
    """A subscriber that keeps what it is told."""
    return Recorder()
