"""A small HTTP load balancer: it buffers each request, and retries it on another bridge until one takes it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from bridge import Bridge

# Alma waits 5 s. After this time the balancer answers by itself.
WHOLE_SECONDS = 4.5
# After this time the balancer tries another bridge. A bridge answers within 4 s by default.
ATTEMPT_SECONDS = 4.2
CHECK_SECONDS = 0.2
NOBODY_BODY = b'{"errorMessage":"no bridge is ready"}'
NOBODY = (b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n" % len(NOBODY_BODY)) + NOBODY_BODY


class Balancer:
    """Sends requests in turn to the bridges whose /readyz says 200."""

    def __init__(self, bridges: list) -> None:
        self.bridges = bridges
        # Where each bridge was when it last said that it is ready. Only a check or a failed request tells that it is gone.
        self.ready: dict = {}
        # Of attempts that were retried on another bridge: why. `gave up`: the balancer's own 503.
        self.retries: Counter = Counter()
        self._turn = itertools.count()
        self._server = None
        self._checks: list = []

    def address(self) -> tuple:
        return self._server.sockets[0].getsockname()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 16)
        self._checks = [asyncio.create_task(self._check(bridge)) for bridge in self.bridges]

    async def close(self) -> None:
        for check in self._checks:
            check.cancel()
        if self._server:
            self._server.close()

    async def _check(self, bridge: Bridge) -> None:
        while True:
            address = bridge.address()
            if await bridge.get("/readyz") is not None:
                self.ready[bridge] = address
            else:
                self.ready.pop(bridge, None)
            await asyncio.sleep(CHECK_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await read_message(reader)
                writer.write(await self._answer(request))
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        clock = asyncio.get_running_loop().time
        ends = clock() + WHOLE_SECONDS
        answer = None
        tried: set = set()
        while clock() < ends:
            bridge = self._choose(tried)
            if bridge is None:
                tried.clear()
                await asyncio.sleep(0.05)
                continue
            tried.add(bridge)
            try:
                given = await asyncio.wait_for(exchange(self.ready[bridge], request),
                                               max(0.05, min(ATTEMPT_SECONDS, ends - clock())))
            except asyncio.TimeoutError:
                self.retries["no answer"] += 1
                continue
            except ConnectionRefusedError:
                self.retries["refused"] += 1
                continue
            except (OSError, EOFError):
                self.retries["cut"] += 1
                continue
            if not given.startswith(b"HTTP/1.1 5"):
                return given
            answer = given
            self.retries["503"] += 1
        self.retries["gave up"] += 1
        return answer or NOBODY

    def _choose(self, tried: set):
        """The next ready bridge that was not tried in this round."""
        start = next(self._turn)
        for step in range(len(self.bridges)):
            bridge = self.bridges[(start + step) % len(self.bridges)]
            if bridge in self.ready and bridge not in tried:
                return bridge
        return None


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """A request or an answer, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


async def exchange(address: tuple, request: bytes) -> bytes:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 16)
    try:
        writer.write(request)
        await writer.drain()
        return await read_message(reader)
    finally:
        writer.transport.abort()
