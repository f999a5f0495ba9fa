"""The short ways in: one call that composes a server and serves."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict, Unpack

from plugsocket.core.admission import Verify
from plugsocket.core.composition import Endpoints, Explanation, compose
from plugsocket.core.deadlines import Deadlines
from plugsocket.core.errors import PlugsocketError
from plugsocket.core.limits import Limits
from plugsocket.core.protocols import FailurePolicy, Handler, Strategy
from plugsocket.core.registry import Registry, default_registry
from plugsocket.core.report import StopReport
from plugsocket.core.server import Server

if TYPE_CHECKING:
    import trio


class ServerOptions(TypedDict, total=False):
    """What `Server` takes by name."""

    limits: Limits
    deadlines: Deadlines
    verify: Verify | None
    grace: float
    on_failure: str | FailurePolicy
    registry: Registry


def run(
    endpoints: Endpoints,
    handler: Handler,
    strategy: str | Strategy | None = None,
    *,
    started: Callable[[Server], object] | None = None,
    **options: Unpack[ServerOptions],
) -> StopReport:
    """Serve until a signal: `plugsocket.run("tcp://127.0.0.1:9999", handle)`.

    Args:
        endpoints: as for `Server`.
        handler: as for `Server`.
        strategy: as for `Server`.
        started: as for `Server.run`.
        options: as for `Server`: `limits`, `deadlines`, `verify`, `grace`, `on_failure`, `registry`.

    Returns:
        How the stop went.

    Raises:
        PlugsocketError: the parts do not make a server; see `Server`.
        OSError: as `Server.run`.
    """
    return Server(endpoints, handler, strategy, **options).run(started=started)


async def serve(
    endpoints: Endpoints,
    handler: Handler,
    strategy: str | Strategy | None = None,
    *,
    task_status: "trio.TaskStatus[Server] | None" = None,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve inside a trio program: `server = await nursery.start(plugsocket.serve, "tcp://127.0.0.1:0", handle)`.

    Args:
        endpoints: as for `Server`.
        handler: as for `Server`.
        strategy: as for `Server`, but `"trio"` by default, for blocking handlers too.
        task_status: started with the server, once every listener accepts.
        options: as for `run`. `nursery.start` passes no named arguments on: use `functools.partial`, or a `Server`.

    Raises:
        PlugsocketError: the parts do not make a server; see `Server`.
        OSError: as `Server.serve`.
    """
    chosen = "trio" if strategy is None else strategy
    await Server(endpoints, handler, chosen, **options).serve(task_status=task_status)


def explain(
    endpoints: Endpoints,
    handler: Handler,
    strategy: str | Strategy | None = None,
    *,
    registry: Registry = default_registry,
) -> Explanation:
    """Tell what would be composed of these parts and why, or why nothing would; nothing is opened.

    Args:
        endpoints: as for `Server`.
        handler: as for `Server`.
        strategy: as for `Server`.
        registry: where to look.
    """
    try:
        return Explanation(compose(endpoints, handler, strategy, registry), None)
    except PlugsocketError as problem:
        return Explanation(None, problem)
