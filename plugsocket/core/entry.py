"""The short ways in: one call that composes a server and serves."""

from collections.abc import Callable

import trio

from plugsocket.core.admission import Verify
from plugsocket.core.composition import Endpoints, Explanation, compose
from plugsocket.core.deadlines import Deadlines
from plugsocket.core.errors import PlugsocketError
from plugsocket.core.limits import Limits
from plugsocket.core.protocols import Handler, Strategy
from plugsocket.core.registry import Registry, default_registry
from plugsocket.core.report import StopReport
from plugsocket.core.server import DEFAULT_GRACE, NO_DEADLINES, NO_LIMITS, Server


def run(
    endpoints: Endpoints,
    handler: Handler,
    strategy: str | Strategy | None = None,
    *,
    limits: Limits = NO_LIMITS,
    deadlines: Deadlines = NO_DEADLINES,
    verify: Verify | None = None,
    grace: float = DEFAULT_GRACE,
    started: Callable[[Server], object] | None = None,
) -> StopReport:
    """Serve until a signal: `plugsocket.run("tcp://127.0.0.1:9999", handle)`.

    Args:
        endpoints: as for `Server`.
        handler: as for `Server`.
        strategy: as for `Server`.
        limits: as for `Server`.
        deadlines: as for `Server`.
        verify: as for `Server`.
        grace: as for `Server`.
        started: as for `Server.run`.

    Returns:
        How the stop went.

    Raises:
        PlugsocketError: the parts do not make a server; see `Server`.
        OSError: as `Server.run`.
    """
    server = Server(endpoints, handler, strategy, limits=limits, deadlines=deadlines, verify=verify, grace=grace)
    return server.run(started=started)


async def serve(
    endpoints: Endpoints,
    handler: Handler,
    strategy: str | Strategy | None = None,
    *,
    limits: Limits = NO_LIMITS,
    deadlines: Deadlines = NO_DEADLINES,
    verify: Verify | None = None,
    grace: float = DEFAULT_GRACE,
    task_status: "trio.TaskStatus[Server]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve inside a trio program: `server = await nursery.start(plugsocket.serve, "tcp://127.0.0.1:0", handle)`.

    Args:
        endpoints: as for `Server`.
        handler: as for `Server`.
        strategy: as for `Server`, but `"trio"` by default, for blocking handlers too.
        limits: as for `Server`.
        deadlines: as for `Server`.
        verify: as for `Server`.
        grace: as for `Server`.
        task_status: started with the server, once every listener accepts.

    Raises:
        PlugsocketError: the parts do not make a server; see `Server`.
        OSError: as `Server.serve`.
    """
    chosen = "trio" if strategy is None else strategy
    server = Server(endpoints, handler, chosen, limits=limits, deadlines=deadlines, verify=verify, grace=grace)
    await server.serve(task_status=task_status)


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
