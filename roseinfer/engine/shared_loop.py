"""The scheduler loop that all calls of one engine share, from any thread and from asyncio.

Exactly one thread at a time leads: it alone uses the scheduler. A call on an otherwise idle engine leads itself, so
that a program of one thread computes on that thread, where its profiler looks, and Ctrl-C ends its step. As soon as
another call waits, the lead passes to a driver thread, which keeps it while any call waits. Callers never share a
step with a caller that could be interrupted.

A stream computes only while its consumer, or any other one, waits: a stream that is read slowly does not run ahead by
itself.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from roseinfer.engine.call import Call
from roseinfer.engine.device import num_threads
from roseinfer.engine.outputs import TokenEvent
from roseinfer.engine.schedulers import Scheduler
from roseinfer.errors import RoseinferError

NewScheduler = Callable[[], Scheduler]

_PARKED_S = 10.0
"""Time for which the driver thread waits for calls before it ends. A new thread needs new threads of OpenMP."""


class SharedLoop:
    """Runs the calls of all threads as one batch. Holds no scheduler, and so no engine, while no call is unfinished."""

    def __init__(self) -> None:
        # Reentrant, because the garbage collector may close a stream, which cancels its call, at any allocation.
        self._mutex = threading.RLock()
        self._driver_wanted = threading.Condition(self._mutex)
        self._is_led = False
        self._is_driver_wanted = False  # the driver has the lead and has not noticed yet
        self._driver: threading.Thread | None = None
        self._inbox: deque[tuple[Call, NewScheduler | None]] = deque()  # calls to start; with None, to abort
        self._waiting: set[Call] = set()  # calls whose consumers wait for another thread
        self._scheduler: Scheduler | None = None  # of the leading thread
        self._calls: dict[int, Call] = {}  # unfinished calls by the scheduler's request ids; of the leading thread

    def submit(self, call: Call, new_scheduler: NewScheduler) -> None:
        """Queue a call. `new_scheduler` makes its scheduler if the loop has none."""
        self._inbox.append((call, new_scheduler))

    def wait(self, call: Call, wants: Callable[[], bool]) -> None:
        """Return once `wants()` is true, or the call is over; lead the loop meanwhile if no other thread does."""
        is_ready = _ready(call, wants)
        while True:
            with self._mutex:
                if is_ready():
                    return
                if self._is_led:
                    changed = threading.Event()
                    self._add_waiting(call, is_ready, changed.set)
                else:
                    changed = None
                    self._is_led = True
            if changed is None:
                self._lead(lambda: is_ready() or bool(self._waiting))
                continue
            try:
                changed.wait()
            finally:
                self._remove_waiting(call)

    async def wait_async(self, call: Call, wants: Callable[[], bool]) -> None:
        """Return once `wants()` is true, or the call is over. The driver thread leads the loop meanwhile."""
        is_ready = _ready(call, wants)
        running = asyncio.get_running_loop()
        while True:
            future = running.create_future()

            def wake(future: asyncio.Future[None] = future) -> None:
                try:
                    running.call_soon_threadsafe(_resolve, future)
                except RuntimeError:  # the event loop was closed while the call ran
                    self._inbox.append((call, None))

            with self._mutex:
                if is_ready():
                    return
                self._add_waiting(call, is_ready, wake)
                if not self._is_led:
                    self._is_led = True
                    self._hand_to_driver()
            try:
                await future
            finally:
                self._remove_waiting(call)

    def take_event(self, call: Call) -> TokenEvent | None:
        """Return the next event of a stream; None at its end. Call `wait` first."""
        with self._mutex:
            if call.events:
                return call.events.popleft()
        call.raise_error()
        return None

    def cancel(self, call: Call) -> None:
        """End a call whose consumer has left. Its blocks are free before the next step."""
        with self._mutex:
            if call.is_cancelled or (call.is_started and call.is_over):
                return
            call.is_cancelled = True
            self._inbox.append((call, None))
            if self._is_led:
                return
            self._is_led = True
        self._lead(lambda: True)

    def _add_waiting(self, call: Call, is_ready: Callable[[], bool], wake: Callable[[], None]) -> None:
        call.wants, call.wake = is_ready, wake
        self._waiting.add(call)

    def _remove_waiting(self, call: Call) -> None:
        with self._mutex:
            call.wake = None
            self._waiting.discard(call)

    def _lead(self, may_leave: Callable[[], bool]) -> None:
        """Start, step and abort calls until `may_leave()`; then leave the lead to the driver if a call waits."""
        num_threads()  # torch sets the number of threads of OpenMP per thread, on first use
        has_left = False
        try:
            while True:
                with self._mutex:
                    has_left = may_leave() and self._leave()
                if has_left:
                    return
                if self._inbox:
                    self._handle_inbox()
                else:
                    self._step()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            with self._mutex:
                while not has_left:
                    has_left = self._leave()
                    if not has_left:
                        self._handle_inbox()

    def _leave(self) -> bool:
        """Give up the lead, to the driver if a call waits. Returns False if the inbox must be handled first."""
        if self._waiting:
            self._hand_to_driver()
            return True
        self._is_led = False
        if self._inbox:
            self._is_led = True
            return False
        return True

    def _hand_to_driver(self) -> None:
        """Give the lead to the driver thread, and start that thread if there is none."""
        self._is_driver_wanted = True
        if self._driver is not None:
            self._driver_wanted.notify()
            return
        self._driver = threading.Thread(target=self._drive, name="roseinfer-engine", daemon=True)
        try:
            self._driver.start()
        except RuntimeError as error:  # the system has no more threads, or the interpreter ends
            self._driver, self._is_led, self._is_driver_wanted = None, False, False
            self._fail(RoseinferError(f"the thread of the engine cannot start: {error}"), also=self._waiting)

    def _drive(self) -> None:
        """Lead whenever the lead is handed over, until nothing was for `_PARKED_S`."""
        while True:
            with self._mutex:
                if not self._is_driver_wanted:
                    self._driver_wanted.wait(_PARKED_S)
                if not self._is_driver_wanted:
                    self._driver = None
                    return
                self._is_driver_wanted = False
            with suppress(Exception):  # each call that it ended raises it
                self._lead(lambda: not self._waiting)

    def _handle_inbox(self) -> None:
        """Start and abort the calls of the inbox. Only the leader calls this."""
        while self._inbox:
            call, new_scheduler = self._inbox.popleft()
            if new_scheduler is None:
                self._forget(call)
                call.abort(self._scheduler)
                self._collect()
            elif not call.is_cancelled:
                if self._scheduler is None:
                    self._scheduler = new_scheduler()
                self._calls |= call.start(self._scheduler)
                self._collect()
            self._wake(call)
        if not self._calls:
            self._scheduler = None

    def _step(self) -> None:
        """Compute one step and give each call its events and outputs. Only the leader calls this."""
        if self._scheduler is None:
            return
        changed: set[Call] = set()
        for event in self._scheduler.step():
            call = self._calls.get(event.request_id)
            if call is not None:
                call.add_event(event)
                changed.add(call)
        changed |= self._collect()
        self._scheduler.take_steps()
        if not self._calls:
            self._scheduler = None
        for call in changed:
            self._wake(call)

    def _collect(self) -> set[Call]:
        """Give each call the outputs of its finished completions. Returns the calls that changed."""
        if self._scheduler is None:
            return set()
        changed: set[Call] = set()
        for output in self._scheduler.take_outputs():
            call = self._calls.get(output.request_id)
            if call is not None:
                call.add_output(output)
                changed.add(call)
        for call in changed:
            if call.is_over:
                self._forget(call)
        return changed

    def _forget(self, call: Call) -> None:
        for request_id in call.request_ids:
            self._calls.pop(request_id, None)

    def _wake(self, call: Call) -> None:
        with self._mutex:
            if call.wake is not None and call.wants():
                call.wake()
                call.wake = None
                self._waiting.discard(call)

    def _fail(self, error: BaseException, also: set[Call] | None = None) -> None:
        """End all started calls after a failed step; the next call starts with a new scheduler."""
        failed = {*self._calls.values(), *(also or ())}
        scheduler, self._scheduler = self._scheduler, None
        self._calls = {}
        for call in failed:
            call.abort(scheduler)
            call.error = error
            self._wake(call)


def _ready(call: Call, wants: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: call.error is not None or wants()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
