"""Signals that are held for a block."""

import signal

import pytest

from plugsocket.core.signals import signals_held


def test_an_interruption_while_signals_are_being_held_leaves_none_held(monkeypatch: pytest.MonkeyPatch) -> None:
    set_mask = signal.pthread_sigmask

    def interrupted(how: int, mask: object) -> set[int]:
        before = set_mask(how, mask)  # type: ignore[arg-type]
        if how == signal.SIG_BLOCK and mask:
            raise KeyboardInterrupt
        return before

    before = set_mask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), signals_held():
            pass
        assert set_mask(signal.SIG_BLOCK, ()) == before
    finally:
        set_mask(signal.SIG_SETMASK, before)
