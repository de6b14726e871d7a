"""Two sinks of which one is down for good: the other is not held up, and the journal's bound is kept.

First the bound answers 503: what was acknowledged is the living sink's and the dead one's alike. Then the dead one is
made `best_effort` by a reload: it gives up its oldest events, counted, and Alma gets her 204 again.
"""

from __future__ import annotations

import asyncio
import time

from bridge import replace_file
from campaign import Campaign, say
from places import common

NAME = "two_sinks_one_down"
# Of undelivered events; a segment is an eighth of it.
MAX_SIZE = 16 << 20
# The living sink's oldest waiting event is never older, on a machine that does much else.
HELD_UP_SECONDS = 3.0
# Answers of 503 by which it is seen that the bound stands.
FULL_ANSWERS = 20
# Until the bound is reached, and until as much again was given up.
FILL_SECONDS = 120


class TwoSinks(Campaign):
    """The living sink is `main`, which is read back; `dead` connects to a port where nobody listens."""

    # Without the largest: two of them would be the whole journal.
    big_every = float("inf")
    journal = f'max_size = "{MAX_SIZE}B"\n'
    expected_errors = ("journal full",)

    def sinks(self) -> str:
        nobody = common.free_ports(["nobody"])["nobody"]
        return super().sinks() + "[sinks.dead]\nbest_effort = false\n" + self.common_keys() + self.place.sink(nobody)

    async def _faults(self, load: asyncio.Task) -> None:
        await self._until("the journal is full", load, self._is_full)
        self._note(NAME, "the bound answers 503")
        self.world.inflicted[NAME] += 1
        config = self.bridge.config.read_text(encoding="utf-8")
        replace_file(self.bridge.config, config.replace("best_effort = false", "best_effort = true"))
        self.bridge.reload()
        await self._until("the dead sink gives up its oldest events", load, self._gives_up)
        self._note(NAME, "the dead sink has given up events")
        refused = self.load.outcomes["unavailable"]
        taken = self.load.outcomes["stored"]
        await self._until("as much again is taken", load,
                          lambda: self._has_taken(taken + int(2 * MAX_SIZE / self.average)))
        if self.load.outcomes["unavailable"] > refused:
            self.wrong.append(f"{self.load.outcomes['unavailable'] - refused} events got 503 though the sink that is "
                              "down is best_effort")
        self._note(NAME, f"given up: {await self.bridge.metric('given_up_events_total', sink='dead'):.0f}")

    @property
    def average(self) -> float:
        """Bytes of an event so far."""
        return self.load.bytes / max(1, self.load.outcomes["stored"])

    async def _until(self, what: str, load: asyncio.Task, look) -> None:
        """Waits for a condition, and sees meanwhile that the living sink is not held up."""
        say(f"until {what}")
        deadline = time.monotonic() + FILL_SECONDS
        while not await look():
            if load.done():
                load.result()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {FILL_SECONDS} s: {what}")
            main = await self.bridge.sink("main")
            if main and main["oldest_waiting_seconds"] > HELD_UP_SECONDS:
                raise RuntimeError(f"the living sink is held up: {main}")
            await asyncio.sleep(0.1)

    async def _is_full(self) -> bool:
        """The bound answers, and the dead sink's events are what fills the journal."""
        status = await self.bridge.status()
        return (self.load.outcomes["unavailable"] >= FULL_ANSWERS and status is not None
                and status["journal"]["waiting_bytes"] > MAX_SIZE / 2)

    async def _gives_up(self) -> bool:
        return await self.bridge.metric("given_up_events_total", sink="dead") > 0

    async def _has_taken(self, count: int) -> bool:
        return self.load.outcomes["stored"] >= count
