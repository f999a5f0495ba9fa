"""The server: a transport, a handler and a strategy, and the calls that move it through its life."""

import inspect
import math
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from zope.interface import implementer

from plugsocket.core.admission import Admission, Verify
from plugsocket.core.claims import claim, release
from plugsocket.core.closing import CloseSignal
from plugsocket.core.composition import Composition, Endpoints, compose, is_datagram
from plugsocket.core.control import STOP
from plugsocket.core.deadlines import Deadlines
from plugsocket.core.endings import split_ending
from plugsocket.core.engine import Engine, Terms
from plugsocket.core.errors import CompositionError, LifecycleError, OptionError
from plugsocket.core.events import DrainBegan, DrainEnded, Event, ListenerOpened, ServerFailed, StateChanged
from plugsocket.core.failures import Isolate, failure_policy
from plugsocket.core.interfaces import IInlineStrategy, IRequestHandlerClass, IServer, ITrioDriver
from plugsocket.core.job import current_job
from plugsocket.core.ledger import Ledger, Stats
from plugsocket.core.lifecycle import FINAL, Lifecycle, State
from plugsocket.core.limits import Limits
from plugsocket.core.opening import open_engine
from plugsocket.core.options import SECONDS, is_seconds
from plugsocket.core.protocols import FailurePolicy, Handler, Strategy, Transport, TrioDriver
from plugsocket.core.registry import Registry, default_registry
from plugsocket.core.report import StopReport
from plugsocket.core.reporting import Events, Subscriber
from plugsocket.core.signals import signals_left_alone, stop_signals_handled
from plugsocket.core.trio_seen import in_trio_task

if TYPE_CHECKING:
    import trio

DEFAULT_GRACE = 10.0  # seconds; below the 30 after which orchestrators commonly kill, picked rather than measured
NO_LIMITS = Limits()
NO_DEADLINES = Deadlines()
ISOLATE = Isolate()
ASKED = StopReport(0, (), 0.0, finished=False)
PATIENCE = 5.0  # seconds beyond the grace that stop() waits; more than drivers give handlers that were cut


@implementer(IServer)
class Server:
    """A server composed of a transport, a handler and a strategy.

    Nothing is opened before `bind()`, or a call that binds: `serve_forever`, `start`, `serve`, `run`, `handle_request`.

    Args:
        endpoints: a transport or its string (`"tcp://127.0.0.1:9999"`), a `trio.abc.Listener`, or several of them.
        handler: what to do with one request: `handle(connection)`, `handle(datagram)`, an async function of the same
            form, or a class derived from `BaseRequestHandler` (plugsocket's or the standard library's).
        strategy: how requests run beside each other, or its string (`"thread?max_workers=64"`); by default `Thread()`
            for a handler that blocks and `Trio()` for an async one.
        limits: how many requests may be under way, and what becomes of the others.
        deadlines: how long the peers of connections may take.
        verify: called with each request that was accepted, an `IRequest`, before its handler is started; if the result
            is false the request is closed. It is called in the loop that accepts, so it must be quick; one that raises
            is reported, and the request is closed.
        grace: seconds that requests under way get when the server stops, unless `stop()` says otherwise.
        on_failure: what the failure of a handler means for the server: by default `Isolate()`, or `"isolate"`, nothing;
            under `Abort()`, or `"abort"`, it ends the server, which is `FAILED` then, and serving raises the error.
        registry: where to look for what fits; by default what plugsocket and plug-ins registered.

    Raises:
        OptionError: a string or an option is wrong.
        PluginError: a string names a plug-in that is not there, or does not load.
        CompositionError: the parts do not fit, or the strategy instance serves another server.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        handler: Handler,
        strategy: str | Strategy | None = None,
        *,
        limits: Limits = NO_LIMITS,
        deadlines: Deadlines = NO_DEADLINES,
        verify: Verify | None = None,
        grace: float = DEFAULT_GRACE,
        on_failure: str | FailurePolicy = ISOLATE,
        registry: Registry = default_registry,
    ) -> None:
        admission = Admission(_checked_limits(limits), _checked_hook(verify))
        self._composition: Composition = compose(endpoints, handler, strategy, registry)
        _check_deadlines(deadlines, self._composition)
        self._terms = Terms(admission, deadlines, _checked_grace(grace), failure_policy(on_failure))
        self._lifecycle = Lifecycle(on_move=self._on_move)
        self._events = Events()
        self._ledger = Ledger(on_free=self._ring, on_change=self._lifecycle.touch)
        self._driver = self._composition.driver(self._composition.strategy)
        self._engine: Engine | None = None
        self._serving_thread: int | None = None
        self._background: threading.Thread | None = None
        self._on_closed: list[Callable[[], None]] = []
        self._stop_began = math.nan
        self._drain_told = False
        self._cause: BaseException | None = None
        self._report: StopReport | None = None
        self._inline = IInlineStrategy.providedBy(self._composition.strategy)
        claim(self._composition.strategy, self)

    # What it is

    @property
    def transports(self) -> tuple[Transport, ...]:
        """The transports, in the order given."""
        return self._composition.transports

    @property
    def strategy(self) -> Strategy:
        """The strategy."""
        return self._composition.strategy

    @property
    def state(self) -> State:
        """Where in its life the server is."""
        return self._lifecycle.state

    @property
    def cause(self) -> BaseException | None:
        """What made the server `FAILED`; `None` in every other state."""
        return self._cause

    @property
    def report(self) -> StopReport | None:
        """How the stop went; `None` until the server is closed."""
        return self._report

    @property
    def addresses(self) -> tuple[Any, ...]:
        """The bound addresses, one a transport, each what `socket.connect` takes; empty before `bind()`."""
        return tuple(endpoint.listener.address for endpoint in self._engine.endpoints) if self._engine else ()

    @property
    def urls(self) -> tuple[str, ...]:
        """The bound addresses as endpoint strings, such as `tcp://127.0.0.1:54321`; empty before `bind()`."""
        return tuple(endpoint.url for endpoint in self._engine.endpoints) if self._engine else ()

    @property
    def closing(self) -> CloseSignal | None:
        """What tells handlers that the server is stopping, for whom no connection tells it; `None` before `bind()`."""
        return None if self._engine is None else self._engine.control.closing

    @property
    def stats(self) -> Stats:
        """Counters, taken now."""
        lost = self._engine.lost if self._engine is not None else 0
        return self._ledger.stats(self._terms.admission.waiting, lost)

    @property
    def limits(self) -> Limits:
        """How many requests may be under way; may be set while serving: `server.limits = Limits(max_connections=50)`.

        A lower limit ends nothing that is under way.
        """
        return self._terms.admission.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._terms.admission.limits = _checked_limits(limits)

    @property
    def verify(self) -> Verify | None:
        """The hook that may refuse a request, as it was given."""
        return self._terms.admission.verify

    @property
    def deadlines(self) -> Deadlines:
        """How long the peers of connections may take."""
        return self._terms.deadlines

    def __repr__(self) -> str:
        where = ", ".join(self.urls) or ", ".join(map(repr, self.transports))
        return f"<Server {where} {self._composition.handler.name} {self.strategy!r} {self.state.name}>"

    def subscribe(self, subscriber: Subscriber, *kinds: type[Event]) -> None:
        """Call `subscriber(event)` for events, in the thread where they happen; it must be quick.

        Args:
            subscriber: what it raises is logged, and ends nothing.
            kinds: classes of `plugsocket.core.events`, for events of these kinds alone; without, for all.

        Raises:
            TypeError: one is no kind of event, or the subscriber is no plain function.
        """
        self._events.subscribe(subscriber, *kinds)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop calling a subscriber, such as `log_events`, which every server has at first.

        Raises:
            ValueError: it was not one.
        """
        self._events.unsubscribe(subscriber)

    # Opening

    def bind(self) -> None:
        """Open every listener, or none.

        May block: name resolution, the file system.

        Raises:
            LifecycleError: the server is not `NEW`.
            OSError: an endpoint cannot be opened; the message names it, `errno` is the system's, and nothing is left
                open. The server is still `NEW`.
        """
        with self._lifecycle.held():
            if self.state is not State.NEW:
                self._lifecycle.move("bind")  # which says what is allowed
            composition = self._composition
            call = composition.handler.function
            if IRequestHandlerClass.providedBy(composition.handler):
                call = partial(_construct, call, self)
            engine = open_engine(composition, call, self._ledger, self._events, self._terms, self._begin_drain)
            self._engine = engine
            try:
                self._lifecycle.move("bind")
            except LifecycleError:
                engine.close()
                raise
        for url in self.urls:
            self._events.emit(ListenerOpened(url))

    # Serving

    def serve_forever(self) -> None:
        """Serve in this thread until stopped, binding first if need be; everything is closed afterwards.

        Under a trio strategy it runs `trio.run`.

        Raises:
            LifecycleError: the server serves already, or is over.
            OSError: it could not bind; or a listener failed for good, and the state is `FAILED`.
            BaseException: what a handler raised, if `on_failure` says that it ends the server; the state is `FAILED`.
            KeyboardInterrupt: Ctrl-C came; requests under way were cut, the state is `CLOSED`.
        """
        self._serve_here(_nothing)

    def start(self) -> Self:
        """Serve in a background thread, binding first if need be; returns once requests are being accepted.

        The thread is a daemon: it does not keep a program alive that forgot to stop the server.

        Returns:
            The server.

        Raises:
            LifecycleError: the server serves already, or is over.
            OSError: it could not bind.
        """
        if self.state is State.NEW:
            self.bind()
        with self._lifecycle.held():
            if self.state is not State.BOUND:
                self._lifecycle.move("serve")  # which says what is allowed
        ready = threading.Event()
        errors: list[BaseException] = []

        def on_started() -> None:
            self._background = thread
            ready.set()

        def serve() -> None:
            try:
                self._serve_here(on_started)
            except BaseException as error:  # noqa: BLE001 - it is raised below, or else was reported
                if not ready.is_set():
                    errors.append(error)
            finally:
                ready.set()

        thread = threading.Thread(target=serve, name=f"plugsocket {self.urls[0]}", daemon=True)
        thread.start()
        ready.wait()
        if errors:
            raise errors[0]
        return self

    async def serve(self, *, task_status: "trio.TaskStatus[Server] | None" = None) -> None:
        """Serve inside a trio program until stopped: `server = await nursery.start(server.serve)`.

        Names and paths are resolved in a thread. Cancelling it stops at once: handlers are cancelled, everything is
        closed.

        Args:
            task_status: started with the server, once every listener accepts; `nursery.start` gives it.

        Raises:
            CompositionError: the strategy is not one for trio.
            LifecycleError: the server serves already, or is over.
            OSError: it could not bind, or a listener failed for good.
            BaseException: what a handler raised, if `on_failure` says that it ends the server.
        """
        if not ITrioDriver.providedBy(self._driver):
            raise CompositionError(f"serve() runs trio tasks, which {self.strategy!r} does not; use Trio(), or start()")
        if not in_trio_task():
            raise LifecycleError("serve() is for tasks of trio, and this is none; use start(), or serve_forever()")
        import trio  # noqa: PLC0415 - which this program has done

        driver = cast("TrioDriver", self._driver)
        if self.state is State.NEW:
            await trio.to_thread.run_sync(self.bind)
        with self._serving() as engine:
            started = partial(task_status.started, self) if task_status is not None else _nothing
            await driver.serve(engine, started, None)

    def run(self, grace: float | None = None, *, started: "Callable[[Server], object] | None" = None) -> StopReport:
        """Serve in this thread, the main one, until a signal: SIGTERM and SIGINT drain, a second one stops at once.

        Args:
            grace: seconds that requests under way get; by default the server's.
            started: called with the server once requests are being accepted, and signals handled.

        Returns:
            How the stop went.

        Raises:
            LifecycleError: this is not the main thread, or the server serves already, or is over.
            OSError: as `serve_forever`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise LifecycleError(
                "run() handles signals, which only the main thread can; use serve_forever() or start()"
            )
        asked = False

        def on_signal(_number: int, _frame: object) -> None:
            nonlocal asked
            stopping = asked or (self._engine is not None and self._engine.stopping)
            self.stop(0 if stopping else grace)
            asked = True

        with stop_signals_handled(on_signal):
            try:
                self._serve_here(partial(started, self) if started is not None else _nothing)
            except LifecycleError:
                if not asked:
                    raise
                # The signal came while it was binding, and there was nothing to serve any more.
        assert self._report is not None, "a server that is over has a report"
        return self._report

    def handle_request(self, timeout: float | None = None) -> bool:
        """Serve one request, binding first if need be, and keep the listeners open.

        Args:
            timeout: seconds to wait for it; `None` for ever.

        Returns:
            Whether there was one. Under `Sync()` and trio it has been handled; threads and children may be at it still.

        Raises:
            LifecycleError: the server serves already, or is over.
            OptionError: `timeout` is no duration; the server is unharmed.
            OSError: as `serve_forever`.
        """
        if timeout is not None and not is_seconds(timeout):
            raise OptionError(f"timeout must be {SECONDS}, or None, not {timeout!r}")
        before = self._ledger.accepted
        self._serve_here(_nothing, math.inf if timeout is None else timeout)
        return self._ledger.accepted > before

    def _serve_here(self, started: Callable[[], object], one: float | None = None) -> None:
        if in_trio_task():
            raise LifecycleError("this would block the trio program that it is called in; use `await server.serve()`")
        if self.state is State.NEW:
            self.bind()
        with self._serving() as engine:
            self._driver.run(engine, started, one)

    @contextmanager
    def _serving(self) -> Iterator[Engine]:
        """Be the one who serves; what the driver raises, or that it returns, decides the state afterwards."""
        with self._lifecycle.held():
            self._lifecycle.move("serve")
            self._serving_thread = threading.get_ident()
        engine = self._engine
        assert engine is not None, "a server past NEW has an engine"
        with self._failure_closes(engine):
            yield engine
            with self._lifecycle.held():
                if not engine.stopping:
                    engine.paused = False
                    self._lifecycle.move("handled one")
                    self._serving_thread = None
                    return
            self._driver.finish(engine)
            if engine.failure is not None:
                raise engine.failure
        self._close(engine, None)

    @contextmanager
    def _failure_closes(self, engine: Engine) -> Iterator[None]:
        """Be over if the block raises."""
        try:
            yield
        except BaseException as error:
            # Ctrl-C, or cancelled: asked to end from outside, which is no failure.
            failure, _ = split_ending(error, cancelled=True)
            if self.state is State.BOUND:  # the driver had handled one, and left all else as it was
                engine.request_stop(0.0)
                self._driver.finish(engine)
            self._close(engine, error if error is engine.failure else failure)
            raise

    def pause(self) -> None:
        """Stop accepting; requests under way go on, new ones wait in the kernel's queue.

        Nothing is accepted any more when it returns.

        Raises:
            LifecycleError: the server is not `SERVING`.
        """
        self._set_paused(True, "pause")

    def resume(self) -> None:
        """Accept again.

        Raises:
            LifecycleError: the server is not `PAUSED`.
        """
        self._set_paused(False, "resume")

    def _set_paused(self, paused: bool, event: str) -> None:
        with self._lifecycle.held():
            self._lifecycle.move(event)
            engine = self._engine
            assert engine is not None, "a server past NEW has an engine"
            engine.paused = paused
        with engine.accepting:  # not while the state is held: a signal handler may want that while it is accepted
            engine.control.ring()

    # Stopping

    def stop(self, grace: float | None = None, *, wait: bool = True) -> StopReport:
        """Stop: close the listeners, tell the handlers, wait for them, and cut those that take longer.

        Callable in every state, from any thread, from a handler, from a forked child's handler, from a signal handler,
        and again: a later, shorter grace overrides. In a handler, and in the serving thread, it only asks for the stop
        and returns at once; elsewhere it returns when the server is closed.

        Args:
            grace: seconds that requests under way get, `inf` for as long as they take; by default the server's, which
                it always is from a forked child. 0 cuts them now.
            wait: whether to wait until the server is closed; else it only asks, as in a handler.

        Returns:
            How it went; not `finished` where it only asked, or where a handler could not be ended.
        """
        grace = self._terms.grace if grace is None else _checked_grace(grace)
        if self._lifecycle.deferred(partial(self.stop, grace, wait=wait)):
            return ASKED
        report = self._ask_to_stop(grace)
        if report is not None:
            return report
        if self._is_inside() or not wait:
            self._enforce_elsewhere(grace)
            return ASKED
        self._enforce(grace)
        if self._report is not None and self._background is not None:
            self._background.join(PATIENCE)
        return self._report or self._unfinished()

    async def stop_async(self, grace: float | None = None) -> StopReport:
        """As `stop()`, inside a trio program: waits without blocking the other tasks.

        From one of the server's own handlers it only asks. Cancelling it stops the waiting, not the stopping.
        """
        import trio  # noqa: PLC0415 - which this program has done

        await trio.lowlevel.checkpoint()
        grace = self._terms.grace if grace is None else _checked_grace(grace)
        while self._lifecycle.is_held_elsewhere():  # it may be binding, which the other tasks are not to wait for
            await trio.to_thread.run_sync(self._lifecycle.wait_released, abandon_on_cancel=True)
        report = self._ask_to_stop(grace)
        if report is not None:
            return report
        self._enforce_elsewhere(grace)
        if self._in_handler():
            return ASKED
        if self.state not in FINAL:
            closed, token = trio.Event(), trio.lowlevel.current_trio_token()

            def tell() -> None:
                with suppress(trio.RunFinishedError):  # this program is over, and who waited in it waits no more
                    token.run_sync_soon(closed.set)

            self._on_closed.append(tell)
            if self.state not in FINAL:  # again: it may just have closed, in another thread
                with trio.move_on_after(grace + PATIENCE):
                    await closed.wait()
        return self._report or self._unfinished()

    def _unfinished(self) -> StopReport:
        """The report of a stop that could not end every handler."""
        cut = self._engine.cut_peers if self._engine is not None else ()
        return StopReport(0, cut, time.monotonic() - self._stop_began, finished=False)

    def _ask_to_stop(self, grace: float) -> StopReport | None:
        """Set the stop in motion; return a report where there is nothing to wait for."""
        engine = self._engine
        if engine is not None and engine.control.in_child():
            engine.control.ring(STOP)
            return ASKED
        with self._lifecycle.held():
            if self.state is State.NEW:
                self._report = StopReport(0, (), 0.0)  # first, since who sees that it is closed may ask for it
                self._lifecycle.move("stop")
                self._end()
            if self.state in FINAL:
                return self._report
            engine = self._engine  # again: another thread may just have bound
            assert engine is not None, "what is neither NEW nor over has an engine"
            self._note_stop()
            engine.request_stop(grace)
            idle = self.state is State.BOUND
            waits = not self._in_handler() and not in_trio_task()
            if idle:
                self._lifecycle.move("stop")
                self._serving_thread = threading.get_ident() if waits else None
        if idle and waits:  # nobody serves, so the drain is ours
            self._drain_idle(engine)
            return self._report
        if idle:
            threading.Thread(target=self._drain_idle, args=(engine,), name="plugsocket drain", daemon=True).start()
        if self._inline:
            engine.begin_drain()  # the handler that runs in the loop keeps the loop from doing it
        return None

    def _drain_idle(self, engine: Engine) -> None:
        """Drain what handle_request() left under way."""
        with self._failure_closes(engine):
            self._driver.finish(engine)
        self._close(engine, engine.failure)

    def _is_inside(self) -> bool:
        """Whether waiting for the server here would be waiting for oneself."""
        return self._serving_thread == threading.get_ident() or self._in_handler()

    def _in_handler(self) -> bool:
        return current_job.get() in self._ledger.active

    def _enforce(self, grace: float) -> None:
        """Wait until the server is closed; cut a handler that runs in the loop, since the loop itself cannot."""
        if self._inline and self._engine is not None and not self._wait_closed(grace):
            for job in self._engine.give_up():
                job.cut()
            grace = 0.0
        self._wait_closed(grace + PATIENCE)

    def _enforce_elsewhere(self, grace: float) -> None:
        """See to the end of a handler that runs in the loop, for a caller who does not wait for it."""
        if self._inline:
            with signals_left_alone():
                start_new_thread(self._enforce, (grace,))  # takes no lock: the caller may be a signal handler

    def _wait_closed(self, timeout: float) -> bool:
        return self._lifecycle.wait_for(lambda: self.state in FINAL, min(timeout, threading.TIMEOUT_MAX))

    def _begin_drain(self, busy: int) -> None:
        with self._lifecycle.held():
            if self.state in (State.BOUND, State.SERVING, State.PAUSED):  # BOUND: Ctrl-C after a single request
                self._lifecycle.move("stop")
            self._note_stop()
            told, self._drain_told = self._drain_told, True
        if not told and self._engine is not None:
            asked = self._engine.shortest_grace
            self._events.emit(DrainBegan(busy, self._terms.grace if asked is None else asked))

    def _note_stop(self) -> None:
        """Take the time when the stop began, which is when it was first asked for."""
        if math.isnan(self._stop_began):
            self._stop_began = time.monotonic()

    def _close(self, engine: Engine, cause: BaseException | None) -> None:
        """Be over: the driver has released everything that it had."""
        engine.close()
        self._begin_drain(engine.busy_at_stop)
        cut = engine.cut_peers
        seconds = time.monotonic() - self._stop_began
        completed = max(0, engine.busy_at_stop - len(cut))
        self._report = StopReport(completed, cut, seconds, finished=not self._ledger.active)
        self._cause = cause
        self._lifecycle.move("drained" if cause is None else "fail")
        if cause is not None:
            self._events.emit(ServerFailed(cause))
        self._events.emit(DrainEnded(self._report))
        self._end()

    def _end(self) -> None:
        self._serving_thread = None
        release(self.strategy)
        while self._on_closed:
            self._on_closed.pop()()

    def _on_move(self, before: State, state: State) -> None:
        self._events.emit(StateChanged(before, state))

    def _ring(self) -> None:
        if self._engine is not None:
            self._engine.control.ring()

    # Waiting

    def wait(self, *, state: State | None = None, connections: int | None = None, timeout: float | None = None) -> bool:
        """Block until the server is in a state, or has so many requests under way; woken by events, not by polling.

        Args:
            state: the state to wait for.
            connections: the number of requests under way to wait for.
            timeout: seconds; `None` for ever.

        Returns:
            Whether it came, if only for a moment; `False` also when the server is over, and so it never will.

        Raises:
            TypeError: not one of the two was given, or what was given is no state.
        """
        if (state is None) == (connections is None):
            raise TypeError("wait() takes one of state= and connections=")
        if state is not None and not isinstance(state, State):
            raise TypeError(f"state= takes a State such as State.CLOSED, not {state!r}")
        before = self._lifecycle.entered[state] if state is not None else 0

        def reached() -> bool:
            if state is not None:
                return self.state is state or self._lifecycle.entered[state] > before
            return len(self._ledger.active) == connections

        with self._ledger.watched_by_one() if state is None else nullcontext():
            self._lifecycle.wait_for(lambda: reached() or self.state in FINAL, timeout)
            return reached()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop the server, wherever it serves, and close everything."""
        self.stop()


def _nothing() -> None:
    """What is called when nobody asked to be told."""


def _construct(cls: Callable[..., object], server: Server, arguments: tuple[Any, Any]) -> None:
    """Have a request handler class handle a request, which it does when it is constructed."""
    cls(*arguments, server)


def _checked_limits(limits: Limits) -> Limits:
    if not isinstance(limits, Limits):
        raise OptionError(f"limits must be Limits(...), not {limits!r}")
    return limits


def _checked_hook(verify: Verify | None) -> Verify | None:
    if verify is not None and (not callable(verify) or inspect.iscoroutinefunction(verify)):
        raise OptionError(f"verify must be a plain function that takes a request, or None, not {verify!r}")
    return verify


def _check_deadlines(deadlines: Deadlines, composition: Composition) -> None:
    if not isinstance(deadlines, Deadlines):
        raise OptionError(f"deadlines must be Deadlines(...), not {deadlines!r}")
    if deadlines != NO_DEADLINES and all(map(is_datagram, composition.transports)):
        raise OptionError(f"deadlines are for connections, which {composition.transports[0]!r} does not have")


def _checked_grace(grace: float) -> float:
    if grace != math.inf and not is_seconds(grace):
        raise OptionError(f"grace must be {SECONDS}, not {grace!r}")
    return grace
