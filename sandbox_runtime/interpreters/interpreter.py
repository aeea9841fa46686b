"""One live executor in a jail of its own: the process behind a context, in whatever language.

Theory of operation. The executor sits at the other end of a stream socket (`frames.py`) and runs
in a jail with what it starts. A run is over when it says `done`, or when it is gone. An interrupt
is a signal to its process group, again and again until the run has given way; whoever does not is
ended with the whole jail. What is started besides is ended by sweeps of the jail's init.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime import core
from sandbox_runtime.channel import send_some
from sandbox_runtime.errors import (
    BranchRefusedError,
    HostLimitError,
    InterpreterUnavailableError,
    NotStartedError,
    SandboxClosedError,
    SandboxLostError,
    named,
)
from sandbox_runtime.interpreters.execution import Death, Execution
from sandbox_runtime.interpreters.frames import Frame, FrameReader, encode, read
from sandbox_runtime.interpreters.runs import OF_A_RUN
from sandbox_runtime.interpreters.shared_jail import SharedJail
from sandbox_runtime.jail import FOR_EVER
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.receipts import Receipt
from sandbox_runtime.settings import BRANCHING_S, INTERRUPT_GRACE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sandbox_runtime.alarms import Alarms
    from sandbox_runtime.capture import Capture, Found
    from sandbox_runtime.choices import RunEnded
    from sandbox_runtime.interpreters.execution import TracebackStyle
    from sandbox_runtime.interpreters.runs import Run
    from sandbox_runtime.jail import Jail

_RECEIVE_BYTES = 256 * 1024
_RESEND_INTERRUPT_S = 0.3
_DEATH_S = 0.2
_UNNOTICED_S = 0.1
_FRAMES_BETWEEN_CHECKPOINTS = 100
_MOST_STRAY_FRAMES = 256
_SHORT_BYTES = 16 * 1024  # goes into an empty socket whole or not at all
_TOO_SLOW = f"not answer within {BRANCHING_S:g} s when it was branched"
_PIDS = 1 << 22  # the largest number that a process can have, proc_sys_kernel(5)


class Interpreter:
    """A live executor. A `Language` makes it; a `Context` or the pool owns it.

    Args:
        jail: Where it lives, with everything that it starts.
        sock: Our end of its stream socket.
        interrupt_signal: What it takes as an interrupt.

    Attributes:
        exited: Waits for the end of its process and says how that came; None until somebody knows.
        pid: Its number in the jail, once it has started.
        lost: Whether its process has ended or cannot be understood; it cannot be used again then.
        death: How it came to its end, once it is lost and that is known.
        imported_late: Modules of its preload set that could not be imported ahead, and why.
    """

    def __init__(
        self,
        jail: Jail | SharedJail,
        sock: socket.socket,
        *,
        interrupt_signal: int = signal.SIGINT,
        branches: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._interrupt_signal = interrupt_signal
        self._shared = jail if isinstance(jail, SharedJail) else SharedJail(jail)
        self._jail = self._shared.jail
        self._branches = branches
        self._socket = sock
        self._epoll = select.epoll()  # one for each run would cost four calls more
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self.exited: Callable[[], Awaitable[Death | None]] | None = None
        self._reader = FrameReader()
        self._bodies: deque[bytes] = deque()
        self._stray_frames = 0
        self._run: Run | None = None
        self._capture: Capture | None = None
        self._stop: Callable[[], object] | None = None
        self._unheard: Found | None = None  # what the first look found, in whole or in part
        self._unfinished: Awaitable[None] | None = None
        self._closing = False
        self._ended_by: RunEnded = "deadline"
        self._number = 0
        self._memory_kills = 0
        self._hurried = False
        self.imported_late: dict[str, str] = {}
        self.pid = -1
        self.lost = False
        self.death: Death | None = None

    async def start(self, message: Mapping[str, Any]) -> None:
        """Tells it how to start, and waits until it is ready for its first run.

        Raises:
            NotStartedError: There is no such directory.
            InterpreterUnavailableError: It did not come up.
        """
        await self.tell(message)
        await self.wait_started(message)

    async def wait_started(self, message: Mapping[str, Any]) -> None:
        """Waits until it is ready for its first run, after it was told how to start.

        Args:
            message: What it was told.

        Raises:
            NotStartedError: There is no such directory.
            InterpreterUnavailableError: It did not come up.
        """
        frame = await self.first_frame()
        if frame.step == "change_directory" and isinstance(frame.errno, int):
            raise NotStartedError(frame.step, frame.errno, str(message.get("cwd")))
        if frame.type != "ready":
            raise InterpreterUnavailableError(str(frame.reason))
        self.pid = frame.pid
        self._shared.enter(self.pid)

    async def tell(self, message: Mapping[str, Any]) -> None:
        """Tells it something that it does not answer."""
        await self._send(encode(message), ())

    def tell_ahead(self, message: Mapping[str, Any]) -> bool:
        """Tells it its first words before it is there; False if they are too long for that."""
        request = encode(message)
        if len(request) > _SHORT_BYTES:
            return False
        try:
            send_some(self._socket, request)
        except BlockingIOError:
            return False
        return True

    async def first_frame(self) -> Frame:
        """The frame that comes next, while nothing runs.

        Raises:
            InterpreterUnavailableError: It has died, or has broken its protocol.
        """
        self._receive()
        while not self._bodies and not self.lost:
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:  # by `aclose`
                self.lost = True
            else:
                self._receive()
        told = self._next_frame()
        if told is None:
            raise InterpreterUnavailableError(_why_lost(self.death))
        return told[0]

    async def _answer_to(self, number: int) -> Frame:
        """The frame that answers a request; what else its threads may say is passed over."""
        while (frame := await self.first_frame()).id != str(number):
            self._count_stray()
        return frame

    async def fork(self, count: int) -> list[Interpreter]:
        """Copies its live state; nothing runs in it at that time.

        The copies live in the same jail, each with an output and an end of its own.

        Raises:
            BranchRefusedError: Something in it cannot be copied; it is named.
            InterpreterUnavailableError: It or a copy has died, or has not answered in time.
        """
        copies = await self.begin_fork(count)
        await self.finish_fork(copies)
        return copies

    async def begin_fork(
        self, count: int, *, awaited: trio.Event | None = None
    ) -> list[Interpreter]:
        """Copies its live state; from then on it may be used, while `finish_fork` is awaited.

        Args:
            count: How many.
            awaited: Happens when somebody waits for it, and nobody for the copies: they have time
                to get ready for a first run, and its state is worth more than they are.

        Raises:
            BranchRefusedError: Something in it cannot be copied; it is named.
            InterpreterUnavailableError: It has died, or has not answered in time; it is lost then.
            trio.TooSlowError: It has not answered in time, but nobody waits for the copies.
        """
        if not self._branches:
            raise BranchRefusedError("interpreters of this language cannot be copied")
        self._bodies.clear()  # of threads that have outlived their cell
        self._stray_frames = 0
        pairs: list[tuple[socket.socket, socket.socket]] = []
        copies: list[Interpreter] = []
        self._number += 1
        message = {"type": "fork", "id": str(self._number), "ahead": awaited is not None}
        try:
            try:
                for _ in range(count):
                    pairs.append(socket.socketpair())
                    copies.append(Interpreter(self._shared, pairs[-1][0], branches=True))
                with trio.move_on_after(BRANCHING_S):
                    await self._send(encode(message), [theirs.fileno() for _, theirs in pairs])
            finally:
                for _, theirs in pairs:
                    theirs.close()
            await self._wait_forked(awaited)
        except BaseException:
            for copy in copies:
                copy.close_ends()  # which ends it, if it was made at all
            for ours, _ in pairs[len(copies) :]:
                ours.close()
            with trio.CancelScope(shield=True):
                if self.lost:
                    await self._end()
            raise
        return copies

    async def _wait_forked(self, awaited: trio.Event | None) -> None:
        """Waits until it has answered that it is copied, for as long as that may take."""
        self._hurried = False
        with trio.move_on_after(BRANCHING_S) as scope:
            if awaited is None:
                answer = await self._answer_to(self._number)
            else:
                async with open_serving_nursery() as nursery:
                    nursery.start_soon(self._hurry_fork, awaited, scope)
                    answer = await self._answer_to(self._number)
        if self._hurried:
            await self._wait_signalled()
        if scope.cancelled_caught:
            if awaited is not None:  # an answer that comes later is passed over
                raise trio.TooSlowError(f"the interpreter did {_TOO_SLOW}")
            self.lost = True
            remedy = "Its state is lost; restart the context or create a new one"
            raise InterpreterUnavailableError(f"the interpreter did {_TOO_SLOW}", remedy=remedy)
        if answer.type == "refused":
            raise BranchRefusedError("it holds what cannot be copied", answer.data or {})
        if answer.type != "forked":
            raise InterpreterUnavailableError(str(answer.reason))

    async def _hurry_fork(self, awaited: trio.Event, attempt: trio.CancelScope) -> None:
        """Ends what code does around a fork (`os.register_at_fork`) once somebody waits for that.

        It is interrupted as a run is; the attempt ends with the grace.
        """
        await awaited.wait()
        await trio.sleep(_UNNOTICED_S)
        self._hurried = True
        attempt.deadline = min(attempt.deadline, trio.current_time() + INTERRUPT_GRACE_S)
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            while True:
                # Itself alone: a copy is in its group until it has a session of its own.
                await self._jail.signal(self.pid, self._interrupt_signal)
                await trio.sleep(_RESEND_INTERRUPT_S)

    async def _wait_signalled(self) -> None:
        """Waits until init has sent what it was asked to: no run that follows is interrupted."""
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            living = self._shared.others(-1)
            await self._jail.sweep(spare=(), keep=(), since_ticks=FOR_EVER, trees=living)

    async def finish_fork(self, copies: Sequence[Interpreter]) -> None:
        """Waits until its copies are ready; if one does not come, all are ended.

        Raises:
            InterpreterUnavailableError: A copy has died, or has not answered in time.
        """
        try:
            with trio.move_on_after(BRANCHING_S) as scope:
                for copy in copies:
                    await copy.begin_as_copy(self)
            if scope.cancelled_caught:
                raise InterpreterUnavailableError(f"a copy of the interpreter did {_TOO_SLOW}")
        except BaseException:
            known = [copy for copy in copies if copy.pid > 0]
            for copy in copies:
                copy.forget() if copy in known else copy.close_ends()
            with trio.CancelScope(shield=True):
                await self.end_forgotten(known)
            raise

    async def begin_as_copy(self, origin: Interpreter) -> None:
        """Waits until it is ready for its first run.

        Raises:
            InterpreterUnavailableError: It has died, or could not be kept apart from the others.
        """
        ready = await self.first_frame()
        if ready.type != "ready" or not 1 < ready.pid < _PIDS or ready.pid in self._shared:
            raise InterpreterUnavailableError(str(ready.reason or "a copy has no number"))
        self.imported_late = origin.imported_late
        pid = ready.pid
        self._shared.enter(pid)  # no sweep meanwhile ends it
        try:
            if reason := await self._jail.adopt(pid, origin.pid):
                raise InterpreterUnavailableError(f"a copy was refused: {reason}")
        except BaseException:
            self._shared.forget(pid)
            raise
        self.pid = pid

        async def exited() -> Death | None:
            ended = await self._jail.wait_adopted(pid)
            if ended is None or (ended.exit is None and ended.signal is None):
                return None
            if ended.signal is not None:
                return Death(cause="signal", signal=ended.signal)
            return Death(cause="exit", exit_code=ended.exit)

        self.exited = exited

    def fileno(self) -> int:
        """Its socket; readable when it has something to say."""
        return self._socket.fileno()

    def look(self) -> bool:
        """Whether its process lives, as far as can be seen without waiting."""
        self._receive()
        return not self.lost

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Takes what the executor has sent; nothing at all is its end."""
        self.lost = self.lost or not data
        try:
            self._bodies.extend(self._reader.feed(data))
        except ValueError:
            self._break_off()

    def _next_frame(self) -> tuple[Frame, int] | None:
        try:
            return read(self._bodies.popleft()) if self._bodies else None
        except (ValueError, RecursionError):
            self._break_off()
            return None

    def _break_off(self) -> None:
        """User code has written to our socket: nothing that comes can be understood any more."""
        self.lost = True
        self.death = Death(cause="broken protocol")
        self._forget_frames()

    def _forget_frames(self) -> None:
        """Lets go of what has come, up to a whole frame: who is lost may be kept for long."""
        self._reader = FrameReader()
        self._bodies.clear()

    def _count_stray(self) -> None:
        self._stray_frames += 1
        if self._stray_frames > _MOST_STRAY_FRAMES:
            self._break_off()

    async def take(self) -> bool:
        """Notes what the executor says; True when the run is over, or the executor is."""
        self._receive()
        run = self._run
        if run is not None and run.calls_back and self._capture is not None and self._bodies:
            # What was printed before something was shown is in the pipes by now, and comes first.
            await self._capture.catch_up()
        return await self._note_all()

    async def _note_all(self) -> bool:
        while (unfinished := self._note_some()) is not None or self._bodies:
            if unfinished is None:
                await trio.lowlevel.checkpoint()
            else:
                await unfinished
        return self._is_over()

    def _note_some(self) -> Awaitable[None] | None:
        """Notes what was received, but for much; returns what is to be awaited before the rest."""
        run = self._run
        for _ in range(_FRAMES_BETWEEN_CHECKPOINTS):
            told = self._next_frame()
            if told is None:
                break
            frame, weight_bytes = told
            if run is None or frame.id != str(self._number) or frame.type not in OF_A_RUN:
                self._count_stray()
            elif (unfinished := run.note(frame, weight_bytes)) is not None:
                return unfinished
        return None

    def _is_over(self) -> bool:
        run = self._run
        over = self.lost or (run is not None and run.done is not None)
        if over and self._capture is not None:
            # Ours, held until now: the executor lets go of the pipes before it says `done`, and
            # their ends would each wake this process, on the processor that was about to say so.
            self._capture.close_write_ends()
        return over

    async def execute(
        self,
        code: str,
        capture: Capture,
        run: Run,
        timeout_s: float,
        *,
        alarms: Alarms,
        traceback: TracebackStyle = "plain",
    ) -> Execution:
        """Runs code; nothing else runs in it at that time.

        Args:
            code: A cell.
            capture: Takes the output; its pipes are made here, if there are none.
            run: Takes the results.
            timeout_s: Seconds until it is interrupted, and ended if it does not give way.
            alarms: What keeps the deadline until the first news of the run.
            traceback: How an error is shown.

        Cancellation: as the deadline; it may be used again if its state survived.
        """
        started_s = time.monotonic()
        self._number += 1
        self._run, self._capture = run, capture
        self._stray_frames = 0
        self._ended_by = "deadline"
        self._memory_kills = self._jail.count_memory_kills()
        message = {
            "type": "run",
            "id": str(self._number),
            "code": code,
            "traceback": traceback,
            "silent": run.silent,
            "history": run.history,
        }
        request = encode(message)
        deadline_s = trio.current_time() + timeout_s
        over = told = False
        try:
            if len(request) <= _SHORT_BYTES:
                command = self._try_to_tell(request)
                told = command is not None
                if command is not None:
                    over = await self._look_once(command, capture, deadline_s, alarms)
            if not over:
                with trio.CancelScope(deadline=deadline_s) as scope:
                    self._stop = scope.cancel
                    if capture.given_up:
                        # What the first look found is taken all the same; nothing is waited for.
                        scope.cancel()
                        capture.go_on()
                    if not told:
                        capture.make_pipes()
                        await self._send(request, capture.write_fds)
                        told = True
                    await self._follow(capture)
                    # One that was closed is lost as well, and has been ended.
                    over = run.done is not None or not scope.cancel_called
            if not over and (told or self.lost):  # else it has not run
                await self._interrupt(capture)
        except BaseException:
            capture.mute()  # the caller hears of this run no more
            run.mute()
            if told or self.lost:
                with trio.CancelScope(shield=True):
                    await self._interrupt(capture)
            raise
        finally:
            self._stop = self._run = self._capture = None
            self._unheard = self._unfinished = None
            if self._closing:
                self.close_ends()
        if self.lost:
            await self._end()
            capture.mute()
            capture.close_write_ends()
            await capture.drain()
        return self._execution(run, capture, over=over, wall_s=time.monotonic() - started_s)

    def _try_to_tell(self, request: bytes) -> core.Command | None:
        """Sends a run that is short; None if it cannot go at once."""
        try:
            return core.Command(self._socket.fileno(), self._epoll.fileno(), request, None, None)
        except BlockingIOError:
            return None
        except (BrokenPipeError, ConnectionResetError):
            self.lost = True
            return None
        except OSError as error:
            raise named(error) from None

    async def _look_once(
        self, command: core.Command, capture: Capture, deadline_s: float, alarms: Alarms
    ) -> bool:
        """Waits for the first news of a run; True if it is over, with all that is to be done.

        Most runs are over then. Nothing is called back here that may have to be waited for, so that
        an alarm is enough to keep the deadline, and a cancel scope is needed for other runs only.
        """
        self._stop = capture.give_up
        alarm = alarms.set(deadline_s, capture.give_up)
        try:
            found = await capture.first_look(command, self._epoll, _SHORT_BYTES)
        finally:
            alarms.call_off(alarm)
        if found is None:
            return False
        self._feed(found.answer)
        if capture.calls_back and (found.stdout or found.stderr):
            self._unheard = found
            return False
        await capture.take(found)
        self._unfinished = self._note_some()
        if self._unfinished is not None or self._bodies:
            return False
        return self._is_over() and capture.at_end

    async def _follow(self, capture: Capture) -> None:
        """Reads until the run is over, from where the first look has left off."""
        found, self._unheard = self._unheard, None
        if found is not None:
            await capture.take(found)
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            await unfinished
        if await self._note_all():
            await capture.drain()
        else:
            await capture.read_until(self, self._epoll)

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[send_some(self._socket, view, fds) :]
                    fds = ()
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
        except HostLimitError:
            self.lost = self.lost or 0 < len(view) < len(data)
            raise
        except (OSError, trio.ClosedResourceError):
            self.lost = True
        except trio.Cancelled:
            # What follows half a frame cannot be understood.
            self.lost = self.lost or 0 < len(view) < len(data)
            raise

    def interrupt(self, ended_by: RunEnded = "interrupted") -> bool:
        """Ends the run of this moment as its deadline would; False if nothing runs.

        Args:
            ended_by: What its result shall say.
        """
        if self._stop is None:
            return False
        self._ended_by = ended_by
        self._stop()
        return True

    async def _interrupt(self, capture: Capture) -> None:
        """Interrupts the run, and ends the executor if it does not give way in time."""
        run = self._run
        assert run is not None
        capture.go_on()
        try:
            with trio.move_on_after(0 if self.lost else INTERRUPT_GRACE_S):
                while run.done is None and not self.lost:
                    # One is lost if it comes between Python's last look and a long system call.
                    await self._jail.signal(self.pid, self._interrupt_signal, group=True)
                    with trio.move_on_after(_RESEND_INTERRUPT_S):
                        # What was received before the deadline makes no news of its own.
                        if not await self.take():
                            await capture.read_until(self, self._epoll)
            if run.done is None:
                self.lost = True
            else:
                await self._jail.sweep(
                    spare=[self.pid],
                    keep=(),
                    since_ticks=0,
                    trees=self._shared.others(self.pid),
                )
        except (SandboxLostError, SandboxClosedError):
            self.lost = True
        if self.lost:
            await self._end()
        capture.mute()  # a callback that hangs or raises must not keep the end from being told
        capture.close_write_ends()
        await capture.drain()

    async def _end(self) -> None:
        was_lost, self.lost = self.lost, True
        with trio.CancelScope(shield=True):
            if was_lost and self.death is None:
                # Who has closed its socket is about to end, unless user code has closed it.
                with trio.move_on_after(_DEATH_S):
                    await self._learn_death()
            await self._shared.leave(self.pid)
        self._forget_frames()

    async def _learn_death(self) -> None:
        if self.exited is None:
            return
        self.death = await self.exited()
        killed = self.death is not None and self.death.signal == signal.SIGKILL
        if killed and self._jail.count_memory_kills() > self._memory_kills:
            self.death = Death(cause="out of memory", signal=signal.SIGKILL)

    def _execution(self, run: Run, capture: Capture, *, over: bool, wall_s: float) -> Execution:
        done = run.done
        usage = done.usage if done is not None else None
        ended: RunEnded
        if not over:
            ended = self._ended_by
        elif done is None:
            ended = "context lost"
        else:
            ended = "ok" if done.status == "ok" else "error"
        source = "getrusage(2) of the context and its children" if usage else "not measured"
        return Execution(
            results=run.results,
            stdout=capture.stdout.kept,
            stderr=capture.stderr.kept,
            stdout_bytes=capture.stdout.total_bytes,
            stderr_bytes=capture.stderr.total_bytes,
            error=run.error,
            ended=ended,
            state_survived=not self.lost,
            death=self.death,
            execution_count=done.execution_count if done is not None else None,
            receipt=Receipt(
                wall_s=wall_s,
                user_s=usage.user_us / 1e6 if usage else None,
                system_s=usage.system_us / 1e6 if usage else None,
                peak_memory_bytes=usage.max_rss_bytes if usage else None,
                sources={
                    "wall_s": "CLOCK_MONOTONIC of the control process",
                    "user_s": source,
                    "system_s": source,
                    "peak_memory_bytes": "VmHWM of proc(5), shared pages included"
                    if usage
                    else source,
                },
            ),
            results_dropped=run.dropped,
        )

    async def aclose(self) -> None:
        """Ends it; its processes and memory are gone when this returns. Again does nothing."""
        self.interrupt("killed")
        self.lost = True
        with trio.CancelScope(shield=True):
            await self._shared.leave(self.pid)
        if self._run is None:
            self.close_ends()
        else:
            self._closing = True  # its run has been stopped, and may not know of it yet

    def forget(self) -> None:
        """Of a copy that nobody has had: it is none of the jail's interpreters any more."""
        self.lost = True
        self._shared.forget(self.pid)

    async def end_forgotten(self, copies: Sequence[Interpreter]) -> None:
        """Ends copies of its jail that were forgotten, itself perhaps one, and nothing else."""
        await self._shared.end([copy.pid for copy in copies])
        for copy in copies:
            copy.close_ends()

    def close_ends(self) -> None:
        """Closes our end of its socket; its process is not waited for."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()


def _why_lost(death: Death | None) -> str:
    broken = death is not None and death.cause == "broken protocol"
    return "the interpreter has broken its protocol" if broken else "the interpreter has died"
