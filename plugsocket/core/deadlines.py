"""How long the peer of a connection may take."""

import attrs

from plugsocket.core.options import Options, seconds


@attrs.frozen
class Deadlines(Options):
    """How long the peer of a connection may take; `None` for as long as it likes.

    An operation of the handler that would wait beyond a deadline raises `DeadlineError`, which is a `TimeoutError`.
    Each is an amount of time and not of silence: a client that sends a byte now and then does not push it away, `idle`
    excepted, which is about silence. Datagrams have no deadlines: nobody waits for more of one.

    Attributes:
        first_byte: seconds until the first byte, from when the handler begins.
        idle: seconds that the handler waits for the next byte, or for room to send one.
        request: seconds for the whole, from when the handler begins; a handler that serves one request after the other
            on a connection begins anew with `connection.expire_in()`.
        linger: seconds that a peer has, after the handler is done, to finish sending what nobody reads, so that the
            reply is not lost to a reset; 0 does without.
    """

    first_byte: float | None = attrs.field(default=None, kw_only=True, validator=attrs.validators.optional(seconds))
    idle: float | None = attrs.field(default=None, kw_only=True, validator=attrs.validators.optional(seconds))
    request: float | None = attrs.field(default=None, kw_only=True, validator=attrs.validators.optional(seconds))
    linger: float = attrs.field(default=2.0, kw_only=True, validator=seconds)

    @property
    def limit(self) -> bool:
        """Whether they limit what a handler waits for."""
        return any(each is not None for each in (self.first_byte, self.idle, self.request))
