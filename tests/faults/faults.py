"""The faults by name. Each spoils something, for a while where that has a length, and mends it again.

A fault returns once what it spoiled is as it was: from there the time to recovery counts. What it draws comes from the
run's seed. The lengths are those of the long run; a short run has a bound for them.
"""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Awaitable, Callable

from bridge import START_SECONDS, Bridge, moment, replace_file
from ledger import Found
from places import Place
from proxy import Proxy


@dataclass
class World:
    """What a fault may spoil."""

    bridge: Bridge
    place: Place
    proxy: Proxy
    found: Found
    rng: random.Random
    # Seconds; no fault lasts longer.
    longest: float
    # Held while the bridge is being killed or started.
    bridge_lock: asyncio.Lock
    # By fault: how often it was inflicted.
    inflicted: Counter = field(default_factory=Counter)
    # By fault: how often the broker had confirmed nothing for a second when the fault was about to end.
    felt: Counter = field(default_factory=Counter)
    # By fault: how many processes, connections or pieces of traffic it met. A fault that met none did nothing.
    met: Counter = field(default_factory=Counter)

    async def place_does(self, method: Callable, *arguments):
        """Something that blocks."""
        return await asyncio.to_thread(method, *arguments)

    async def lasts(self, name: str, seconds: float) -> None:
        """The length of a fault that is to hold delivery up, and a look at whether it does."""
        await asyncio.sleep(min(seconds, self.longest))
        # One that was just killed has no status for a moment.
        deadline = time.monotonic() + START_SECONDS
        while (sink := await self.bridge.sink()) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self.felt[name] += sink is not None and time.time() - moment(sink.get("last_confirm")) > 1.0


Fault = Callable[[World], Awaitable[None]]
FAULTS: dict = {}


def fault(work: Fault) -> Fault:
    @functools.wraps(work)
    async def counted(world: World) -> None:
        await work(world)
        world.inflicted[work.__name__] += 1

    FAULTS[work.__name__] = counted
    return counted


# ---------------------------------------------------------------- processes

@fault
async def bridge_sigkill(world: World) -> None:
    """kill -9 of the bridge at any moment, now and then again before it is ready."""
    async with world.bridge_lock:
        while True:
            world.bridge.kill()
            world.met["bridge_sigkill"] += 1
            world.bridge.start()
            if world.rng.random() < 0.8:
                break
            await asyncio.sleep(world.rng.uniform(0.0, 0.3))
        await world.bridge.listening()


@fault
async def broker_sigkill(world: World) -> None:
    """kill -9 of the broker, and a start with the same data."""
    world.met["broker_sigkill"] += await world.place_does(world.place.kill)
    await asyncio.sleep(world.rng.uniform(0.0, 2.0))
    await world.place_does(world.place.start)


@fault
async def broker_sigstop(world: World) -> None:
    """30 s in which connections are open and nothing answers."""
    await world.place_does(world.place.hang)
    try:
        await world.lasts("broker_sigstop", 30)
    finally:
        await world.place_does(world.place.go_on)


# ---------------------------------------------------------------- the network

@fault
async def connection_cut(world: World) -> None:
    """Every connection to the broker is closed."""
    world.met["connection_cut"] += world.proxy.cut()


@fault
async def reset(world: World) -> None:
    """Every connection is reset, and for a while each new one too."""
    world.proxy.resetting = True
    before = world.proxy.was_reset
    try:
        world.met["reset"] += world.proxy.reset()
        await asyncio.sleep(world.rng.uniform(0.0, min(5.0, world.longest)))
    finally:
        world.proxy.resetting = False
        world.met["reset"] += world.proxy.was_reset - before


@fault
async def half_open(world: World) -> None:
    """Nothing passes, and neither end is told; the connections of that time never come back to life."""
    world.proxy.swallowing = True
    before = world.proxy.was_swallowed
    try:
        world.met["half_open"] += world.proxy.forget()
        await world.lasts("half_open", 15)
    finally:
        world.proxy.swallowing = False
        world.met["half_open"] += world.proxy.was_swallowed - before


@fault
async def slow(world: World) -> None:
    """1 KB/s each way."""
    world.proxy.slow = True
    before = world.proxy.was_slowed
    try:
        await world.lasts("slow", 20)
    finally:
        world.proxy.slow = False
        world.met["slow"] += world.proxy.was_slowed - before


# ---------------------------------------------------------------- what an operator has a hand in

@fault
async def broker_refuses(world: World) -> None:
    """No room: RabbitMQ's memory alarm, a stream at its max_bytes, too few replicas in sync at Kafka."""
    try:
        await world.place_does(world.place.refuse)
        await world.lasts("broker_refuses", 15)
    finally:
        await world.place_does(world.place.accept)


@fault
async def place_deleted(world: World) -> None:
    """A topic, an exchange, a queue or the stream is deleted while events come.

    What the broker had confirmed goes with it, and that is the deleter's doing: so the proxy holds everything back
    while what is there is read and then deleted. What the bridge had under way then finds nothing there.
    """
    what = world.rng.choice(world.place.deletions)
    world.proxy.hold()
    try:
        await world.place_does(world.place.settle)
        await world.place_does(world.place.delete, what, world.found)
    finally:
        world.proxy.release()
    await world.place_does(world.place.after_delete, what)


@fault
async def rights_revoked(world: World) -> None:
    """The bridge's user loses all rights for 5 minutes; nobody has to do anything but give them back."""
    try:
        await world.place_does(world.place.revoke)
        # A broker may go on as before with who is connected.
        world.proxy.cut()
        await world.lasts("rights_revoked", 300)
    finally:
        await world.place_does(world.place.grant)


@fault
async def credentials_changed(world: World) -> None:
    """The broker wants another password, also of who is connected; then the bridge is given it, and reloaded."""
    password = secrets.token_hex(12)
    await world.place_does(world.place.set_password, password)
    world.proxy.cut()
    await world.lasts("credentials_changed", 10)
    replace_file(world.place.password_file, password)
    async with world.bridge_lock:
        world.bridge.reload()


@fault
async def three_at_once(world: World) -> None:
    """Three that can go together, begun within a second of each other."""
    chosen = world.rng.sample([broker_sigkill, bridge_sigkill, reset, connection_cut, half_open, slow], 3)

    async def soon(work: Fault) -> None:
        await asyncio.sleep(world.rng.uniform(0.0, 1.0))
        await work(world)

    await asyncio.gather(*(soon(work) for work in chosen))
