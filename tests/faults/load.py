"""Alma, as she never is: a fixed rate of signed events, whatever becomes of those before.

Each event is a request on a connection that is free at this moment, or on a new one. What is not acknowledged is sent
again a few times, as Alma does, and some of what was acknowledged is sent again too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from typing import Callable, Optional

import events
from events import Event
from ledger import Ledger

# How long Alma waits.
ALMA_SECONDS = 5.0
# How long we look further for a late acknowledgement, which would be one that Alma does not know of.
LATE_SECONDS = 15.0
# Requests at a time; beyond it events are left out and counted, or this process would be what is measured.
MOST = 512
AGAIN = 6


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: tuple) -> "Connection":
        return cls(*await asyncio.open_connection(*address, limit=1 << 16))

    async def post(self, event: Event) -> tuple:
        """(status, outcome header or an error's text, may the connection be used again)."""
        self.writer.write(
            f"POST /webhooks HTTP/1.1\r\nHost: bridge\r\nContent-Type: application/json\r\n"
            f"X-Exl-Signature: {event.signature}\r\nContent-Length: {len(event.body)}\r\n\r\n".encode() + event.body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        status = int(head[0].split(" ")[1])
        outcome = headers.get("alma-bridge-outcome") if status < 300 else body.decode("utf-8", errors="replace")
        return status, outcome, headers.get("connection") != "close"

    def drop(self) -> None:
        # A reset: nothing of it stays in the kernel for minutes.
        with contextlib.suppress(OSError):
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Load:
    """`rate` events a second, and one of the largest every `big_every` seconds."""

    def __init__(self, seed: int, rate: float, big_every: float, ledger: Ledger,
                 address: Callable[[], Optional[tuple]]) -> None:
        self.seed = seed
        self.rate = rate
        self.big_every = big_every
        self.ledger = ledger
        self.address = address
        self.rng = random.Random(f"{seed}/load")
        # What requests came to: stored, repeat, unavailable, refused, cut, rejected (a 4xx), silent (no answer at all).
        self.outcomes: Counter = Counter()
        # Of the answers that are no 2xx: status and text.
        self.errors: Counter = Counter()
        # Requests without an answer after Alma's 5 s, though the connection stood; and acknowledgements behind them.
        self.slow = 0
        self.acknowledged_slow = 0
        self.slowest = 0.0
        # Of all bodies that were acknowledged.
        self.bytes = 0
        self.behind = 0.0
        self.left_out = 0
        self._idle: list = []
        self._broken: list = []
        self._tasks: set = set()
        self._number = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and until all that is under way has ended."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        next_big = begun + self.big_every / 2
        ticks = 0
        while not stop.is_set():
            due = begun + ticks / self.rate
            ticks += 1
            wait = due - clock()
            if wait > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)
            self.behind = max(self.behind, clock() - due)
            if len(self._tasks) >= MOST:
                self.left_out += 1
                continue
            size = None
            if due >= next_big:
                next_big += self.big_every
                size = events.LARGEST
            self._begin(self._event(events.make(self.seed, self._number, size)))
            self._number += 1
        while self._tasks:
            await asyncio.wait(self._tasks)
        for connection in self._idle:
            connection.drop()
        # A fault of the harness's own must not look like a bridge that does well.
        for error in self._broken:
            raise error

    def _begin(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if task.exception():
            self._broken.append(task.exception())

    async def _event(self, event: Event) -> None:
        """One event, until it is acknowledged or was sent often enough."""
        self.ledger.will_send(event)
        for attempt in range(AGAIN):
            if await self._request(event):
                # Alma repeats what she believes lost: the answer, and not the event, may have been.
                if self.rng.random() < 0.02:
                    await self._request(event)
                return
            await asyncio.sleep(self.rng.uniform(0.2, 1.0) * (attempt + 1))

    async def _request(self, event: Event) -> bool:
        """One request; whether it was acknowledged."""
        address = self.address()
        if address is None:
            self.outcomes["refused"] += 1
            return False
        clock = asyncio.get_running_loop().time
        begun = clock()
        attempt = asyncio.create_task(self._exchange(address, event))
        done, _ = await asyncio.wait([attempt], timeout=ALMA_SECONDS)
        if not done:
            self.slow += 1
            done, _ = await asyncio.wait([attempt], timeout=LATE_SECONDS)
        if not done:
            attempt.cancel()
            await asyncio.wait([attempt])
            self.outcomes["silent"] += 1
            return False
        taken = clock() - begun
        outcome, acknowledged = attempt.result()
        self.outcomes[outcome] += 1
        if acknowledged:
            self.bytes += len(event.body)
            self.ledger.acknowledge(event)
            self.slowest = max(self.slowest, taken)
            self.acknowledged_slow += taken > ALMA_SECONDS
        return acknowledged

    async def _exchange(self, address: tuple, event: Event) -> tuple:
        """(what it came to, was it acknowledged)."""
        connection = self._take_idle(address)
        if connection is None:
            try:
                connection = await Connection.open(address)
            except OSError:
                return "refused", False
        try:
            status, outcome, reusable = await connection.post(event)
        except (OSError, EOFError):
            connection.drop()
            return "cut", False
        except BaseException:
            connection.drop()
            raise
        if reusable:
            self._idle.append(connection)
        else:
            connection.drop()
        if status == 204:
            return outcome or "no outcome", True
        if 200 <= status < 300:
            return f"{status}", True
        self.errors[f"{status} {outcome}"] += 1
        return ("rejected" if 400 <= status < 500 else "unavailable"), False

    def _take_idle(self, address: tuple) -> Optional[Connection]:
        while self._idle:
            connection = self._idle.pop()
            stands = not connection.reader.at_eof() and not connection.writer.is_closing()
            if stands and connection.writer.get_extra_info("peername") == address:
                return connection
            connection.drop()
        return None
