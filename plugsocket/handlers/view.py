"""What every form has in which a handler sees its request."""

from typing import Generic, Protocol, TypeVar

from plugsocket.core.addresses import Address


class _Request(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def peer(self) -> Address: ...
    @property
    def local(self) -> Address: ...


Kind = TypeVar("Kind", bound=_Request)


class RequestView(Generic[Kind]):
    """A request as its handler sees it.

    Args:
        request: the request; the server owns it.
    """

    __slots__ = ("_request",)

    def __init__(self, request: Kind) -> None:
        self._request = request

    @property
    def id(self) -> int:
        """Its number among the requests of its server, as events have it."""
        return self._request.id

    @property
    def peer(self) -> Address:
        """The address of who sent it: what `socket.connect` takes; `""` if it has none."""
        return self._request.peer

    @property
    def local(self) -> Address:
        """The server's address: where the peer reached it; for datagrams the wildcard, if it is bound to that."""
        return self._request.local
