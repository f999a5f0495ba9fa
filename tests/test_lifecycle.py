"""The table of states, and the engine that obeys it."""

import threading

import pytest

from plugsocket import LifecycleError, Server, State
from plugsocket.core.lifecycle import FINAL, REQUESTS, TRANSITIONS, Lifecycle
from tests.kit import TIMEOUT, client, function, serving

ENDPOINT = "tcp://127.0.0.1:0"


def ignore(_before: State, _state: State) -> None:
    pass


def reach(state: State) -> Lifecycle:
    """A lifecycle that was moved to a state by the shortest way that the table has."""
    ways: dict[State, list[str]] = {State.NEW: []}
    while state not in ways:
        ways |= {
            after: [*ways[before], event] for (before, event), after in TRANSITIONS.items() if before in ways
        } | ways
    lifecycle = Lifecycle(on_move=ignore)
    for event in ways[state]:
        lifecycle.move(event)
    assert lifecycle.state is state
    return lifecycle


EVENTS = sorted({event for _, event in TRANSITIONS})


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", State)
def test_moves_are_those_of_the_table(state: State, event: str) -> None:
    lifecycle = reach(state)
    if (state, event) in TRANSITIONS:
        assert lifecycle.move(event) is TRANSITIONS[state, event]
        return
    with pytest.raises(LifecycleError) as caught:
        lifecycle.move(event)
    assert lifecycle.state is state
    assert str(caught.value).startswith(f"cannot {event} a server that is {state.name}; possible: ")
    for possible in (name for before, name in TRANSITIONS if before is state and name in REQUESTS):
        assert possible in str(caught.value)


def test_final_states_are_those_without_moves() -> None:
    assert {state for state in State if not any(before is state for before, _ in TRANSITIONS)} == FINAL


def test_every_state_can_be_stopped_or_is_over() -> None:
    for state in set(State) - FINAL - {State.DRAINING}:
        assert (state, "stop") in TRANSITIONS


def test_illegal_calls_name_the_state_and_harm_nothing() -> None:
    server = Server(ENDPOINT, function)
    with pytest.raises(LifecycleError, match="cannot pause a server that is NEW; possible: bind, stop"):
        server.pause()
    with serving(server):
        for call, text in (
            (server.bind, "cannot bind a server that is SERVING; possible: pause, stop"),
            (server.start, "cannot serve a server that is SERVING"),
            (server.serve_forever, "cannot serve a server that is SERVING"),
            (server.handle_request, "cannot serve a server that is SERVING"),
            (server.resume, "cannot resume a server that is SERVING"),
        ):
            with pytest.raises(LifecycleError, match=text):
                call()
        assert server.state is State.SERVING
        client(server).close()
        assert server.wait(connections=0, timeout=TIMEOUT)


def test_waiting_is_woken_by_the_move() -> None:
    lifecycle = Lifecycle(on_move=ignore)
    woken = threading.Event()

    def wait() -> None:
        lifecycle.wait_for(lambda: lifecycle.state is State.CLOSED, TIMEOUT)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    lifecycle.move("stop")
    thread.join(TIMEOUT)
    assert woken.is_set()


def test_moves_are_told_in_their_order_once_the_state_may_change_again() -> None:
    moves: list[tuple[State, State]] = []

    def on_move(before: State, state: State) -> None:
        moves.append((before, state))
        if state is State.BOUND:
            lifecycle.move("stop")

    lifecycle = Lifecycle(on_move=on_move)
    with lifecycle.held():
        lifecycle.move("bind")
        assert moves == []
    assert moves == [(State.NEW, State.BOUND), (State.BOUND, State.DRAINING)]


def test_wait_takes_one_condition_and_knows_what_will_never_come() -> None:
    server = Server(ENDPOINT, function)
    with pytest.raises(TypeError, match="one of state= and connections="):
        server.wait()
    server.stop()
    assert not server.wait(state=State.SERVING)
    assert server.wait(state=State.CLOSED)
    assert server.wait(connections=0)
