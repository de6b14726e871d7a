"""A TCP proxy between the bridge and its broker, which misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Optional

PIECE = 1 << 16
# Of a slow network: bytes a second, each way on each connection.
SLOW = 1 << 10
# How often an upstream that refuses is looked at.
LOOK_SECONDS = 0.02


class _Line:
    """One connection through the proxy."""

    def __init__(self, near: tuple, far: tuple) -> None:
        self.near = near
        self.far = far
        # Nothing passes any more, and neither end is told.
        self.dead = False

    def end(self, reset: bool) -> None:
        for _, writer in (self.near, self.far):
            if reset:
                _linger_not(writer)
                writer.transport.abort()
            else:
                writer.close()


def _linger_not(writer: asyncio.StreamWriter) -> None:
    """From here on a close is a reset."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Proxy:
    """Listens at `port` for `upstream`. Where that refuses, the proxy does not listen either."""

    def __init__(self, port: int, upstream: tuple) -> None:
        self.port = port
        self.upstream = upstream
        self.slow = False
        # New connections are answered by a reset; new ones are dead too.
        self.resetting = False
        self.swallowing = False
        # New connections that met one of these, and pieces that were slowed down: whether a fault did anything.
        self.was_reset = 0
        self.was_swallowed = 0
        self.was_slowed = 0
        self._open = asyncio.Event()
        self._open.set()
        self._lines: set = set()
        self._server: Optional[asyncio.base_events.Server] = None
        self._waiting: Optional[asyncio.Task] = None

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=PIECE, backlog=128)

    async def close(self) -> None:
        if self._waiting:
            self._waiting.cancel()
        if self._server:
            self._server.close()
        self.reset()

    # ------------------------------------------------------------ faults

    def cut(self) -> int:
        """Both ends see each connection close; how many there were."""
        lines = list(self._lines)
        for line in lines:
            line.end(reset=False)
        return len(lines)

    def reset(self) -> int:
        """Both ends see each connection reset; how many there were."""
        lines = list(self._lines)
        for line in lines:
            line.end(reset=True)
        return len(lines)

    def forget(self) -> int:
        """Half-open: the connections stay, and nothing passes on them ever again; how many there were."""
        for line in self._lines:
            line.dead = True
        return len(self._lines)

    def hold(self) -> None:
        """Nothing passes until [release]; nothing is lost."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    # ------------------------------------------------------------ the way of the bytes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.resetting:
            self.was_reset += 1
            _linger_not(writer)
            writer.transport.abort()
            return
        try:
            far = await asyncio.open_connection(*self.upstream, limit=PIECE)
        except OSError:
            _linger_not(writer)
            writer.transport.abort()
            self._refuse()
            return
        line = _Line((reader, writer), far)
        line.dead = self.swallowing
        self.was_swallowed += line.dead
        self._lines.add(line)
        try:
            await asyncio.gather(self._pass(line, reader, far[1]), self._pass(line, far[0], writer))
        except OSError:
            line.end(reset=True)
        finally:
            line.end(reset=False)
            self._lines.discard(line)

    async def _pass(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            while data and not line.dead:
                await self._open.wait()
                if line.dead:
                    break
                piece = data[:SLOW // 4] if self.slow else data
                data = data[len(piece):]
                writer.write(piece)
                await writer.drain()
                if self.slow:
                    self.was_slowed += 1
                    await asyncio.sleep(len(piece) / SLOW)
        # A broker that was killed behind a line that is dead is not seen either.
        if not line.dead:
            writer.close()

    def _refuse(self) -> None:
        """As the broker's own port would: nobody listens until it does."""
        if self._waiting is None or self._waiting.done():
            self._server.close()
            self._waiting = asyncio.create_task(self._listen_again())

    async def _listen_again(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(*self.upstream)
                writer.close()
                await self.listen()
                return
            await asyncio.sleep(LOOK_SECONDS)
