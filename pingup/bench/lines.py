"""The sockets of a load. What was made before the clock started is written in large pieces."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from pingup.bench.load import Load, Sent
from pingup.bench.scripts import Script
from pingup.bench.server import HOST, Unmeasured

_PATIENCE = 60.0  # seconds without any answer
_LOOK_EVERY = 0.01  # seconds, when answers are not timed
_PACE = 0.001  # seconds between two looks at what is due
_AT_ONCE = 1 << 20
_LARGEST_PIECE = 1 << 18


class Line:
    """One connection, which says its script with at most `window` messages unanswered."""

    def __init__(self, index: int, script: Script, window: int, *, timed: bool) -> None:
        """`index` is its place among all connections of a load."""
        self.index = index
        self.script = script
        self.answered = 0
        self.latencies: list[float] = []
        self.departures: dict[int, float] = {}
        self._window = window
        self._timed = timed
        self._data = memoryview(script.data)
        self._written = 0
        self._begun = 0
        self._sent_at: deque[float] = deque()
        self._received = b""

    @property
    def count(self) -> int:
        """Messages in all."""
        return len(self.script.ends)

    def connect(self, port: int) -> None:
        """Connect, and be let in.

        Raises:
            Unmeasured: the other side does not let us in.
        """
        self.socket = socket.create_connection((HOST, port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.script.greeting:
            self.socket.sendall(self.script.greeting)
            answer = self.socket.recv(_AT_ONCE)
            if answer != self.script.welcome:
                raise Unmeasured(f"a connection was greeted with {answer.hex()}")
        self.socket.setblocking(False)

    def send(self, allowed: int) -> bool:
        """Write messages up to this number, as far as the window and the socket take them.

        Returns:
            Whether something is left that should have gone.
        """
        end = min(allowed, self.answered + self._window, self.count)
        if end > self._begun:
            if self._timed:
                self._depart(end)
            self._begun = end
        due = self.script.ends[self._begun - 1] if self._begun else 0
        while self._written < due:
            piece = self._data[self._written : min(due, self._written + _LARGEST_PIECE)]
            try:
                self._written += self.socket.send(piece)
            except BlockingIOError:
                return True
        return False

    def _depart(self, end: int) -> None:
        now = time.monotonic()
        self._sent_at.extend([now] * (end - self._begun))
        for moment in self.script.moments[self._begun : end]:
            self.departures[moment] = now

    def receive(self) -> int:
        """Take the answers that are there; how many.

        Raises:
            Unmeasured: one is wrong, or the connection has ended.
        """
        try:
            data = self.socket.recv(_AT_ONCE)
        except BlockingIOError:
            return 0
        except ConnectionError as problem:
            raise Unmeasured(f"a connection was ended: {problem.strerror}") from problem
        if not data:
            raise Unmeasured("the server ended a connection")
        self._received += data
        found, size = self.script.count_answers(self._received, self.answered)
        if found:
            self._received = self._received[size:]
            self.answered += found
            if self._timed:
                now = time.monotonic()
                self.latencies.extend(now - self._sent_at.popleft() for _ in range(found))
        return found

    def close(self) -> None:
        self.socket.close()


def run(scripts: Sequence[Script], load: Load, port: int) -> Sent:
    """Say all scripts, until everything is answered.

    Raises:
        Unmeasured: an answer is wrong, or none comes for a minute.
    """
    lines = [Line(index, script, load.window, timed=load.timed) for index, script in enumerate(scripts)]
    try:
        for line in lines:
            line.connect(port)
        began, start, used = time.time(), time.monotonic(), time.process_time()
        if load.timed:
            _converse(lines, load.rate)
        else:
            _flood(lines, load.rate)
        seconds, own_cpu = time.monotonic() - start, time.process_time() - used
    except OSError as problem:
        raise Unmeasured(f"a connection failed: {problem}") from problem
    finally:
        for line in lines:
            if hasattr(line, "socket"):
                line.close()
    return Sent(
        began,
        seconds,
        sum(line.count for line in lines),
        own_cpu,
        sorted(latency for line in lines for latency in line.latencies),
        {moment: at for line in lines for moment, at in line.departures.items()},
    )


class _Pace:
    """How many messages each connection may have sent by now."""

    def __init__(self, lines: Sequence[Line], rate: float | None) -> None:
        self._lines = len(lines)
        self._total = sum(line.count for line in lines)
        self._most = max(line.count for line in lines)
        self._rate = rate
        self._start = time.monotonic()
        self.due = 0

    def update(self) -> None:
        if self._rate is not None:
            self.due = min(self._total, int((time.monotonic() - self._start) * self._rate))

    def allowed(self, index: int) -> int:
        """For the connection of this index; the next message is that of the next connection."""
        if self._rate is None:
            return self._most
        return (self.due + self._lines - 1 - index) // self._lines


def _flood(lines: Sequence[Line], rate: float | None) -> None:
    """Look after all connections every few milliseconds."""
    pace, limit = _Pace(lines, rate), _Limit()
    left = sum(line.count for line in lines)
    while left:
        pace.update()
        answered = 0
        for line in lines:
            line.send(pace.allowed(line.index))
            answered += line.receive()
        left -= answered
        limit.check(answered or pace.due == 0)
        time.sleep(_LOOK_EVERY)


def _converse(lines: Sequence[Line], rate: float | None) -> None:
    """Look at each answer when it comes."""
    pace, limit = _Pace(lines, rate), _Limit()
    left = sum(line.count for line in lines)
    places = {line.socket.fileno(): line.index for line in lines}
    poll = select.epoll()
    for place in places:
        poll.register(place, select.EPOLLIN)
    with poll:
        is_stuck = _send_all(lines, pace)
        while left:
            is_looking = rate is not None or is_stuck
            ready = [lines[places[place]] for place, _ in poll.poll(_PACE if is_looking else _PATIENCE)]
            answered = sum(line.receive() for line in ready)
            pace.update()
            is_stuck = _send_all(lines if is_looking else ready, pace)
            left -= answered
            limit.check(answered)


def _send_all(lines: Sequence[Line], pace: _Pace) -> bool:
    """Write what each may write; whether a socket did not take it all."""
    return sum(line.send(pace.allowed(line.index)) for line in lines) > 0


class _Limit:
    """How long nothing may come."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def check(self, progress: int) -> None:
        """Raises Unmeasured when nothing came for too long."""
        now = time.monotonic()
        if progress:
            self._last = now
        elif now - self._last > _PATIENCE:
            raise Unmeasured(f"no answer came for {_PATIENCE:.0f} s")
