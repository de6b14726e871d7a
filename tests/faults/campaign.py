"""A run: brokers and bridge under load, fault after fault, then everything is read back and compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bridge import Bridge, moment, replace_file
from faults import FAULTS, World
from ledger import Found, Ledger
from load import Load
from places import PLACES, Place
from proxy import Proxy

# A fault that a bridge has not got over by then was not got over.
RECOVERY_SECONDS = 120
# For all that waits, once nothing is spoiled any more. Parked topics are tried every minute.
SETTLE_SECONDS = 240
# Faults that last: they come once or twice, the others as often as there is time.
LASTING = ("broker_sigstop", "half_open", "slow", "broker_refuses", "rights_revoked")
# After these the bridge is not killed until it has got over them: a bridge that comes back only by a restart must show.
ALONE_AFTER = (*LASTING, "three_at_once")
# Before the next fault.
PAUSE = (0.3, 2.0)


@dataclass
class Options:
    """Of the command line."""

    broker: str
    seed: int
    duration: float
    binary: Path
    faults: list
    rate: float
    kill_every: float
    # Seconds; no fault lasts longer.
    longest: float
    # Of the sinks, in TOML's words.
    setup_grace: str
    format: str
    keep: Path


@dataclass
class Tally:
    """What was done to the bridge, and how long it took to get over it."""

    # By fault: seconds from its end to the next confirm.
    recoveries: dict = field(default_factory=dict)
    not_recovered: list = field(default_factory=list)

    def recovered(self, name: str, seconds: float) -> None:
        self.recoveries.setdefault(name, []).append(seconds)


def say(text: str) -> None:
    sys.stderr.write(f"faults: {text}\n")
    sys.stderr.flush()


class Campaign:
    """One run against one broker."""

    # Seconds between two of the largest events.
    big_every = 15.0
    # Keys of the journal, in TOML.
    journal = ""
    # Texts of errors that this run's faults are meant to bring about.
    expected_errors: tuple = ()

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.rng = random.Random(f"{options.seed}/faults")
        prefix = f"faults{options.seed}-{int(time.time())}"
        self.place: Place = PLACES[options.broker](prefix, folder)
        self.proxy = Proxy(self.place.proxy_port(), self.place.upstream())
        replace_file(self.place.password_file, self.place.password)
        self.bridge = Bridge(options.binary, folder, self.sinks(), self.journal)
        self.ledger = Ledger(folder / "ledger")
        self.found = Found(self.ledger, folder, prefix)
        self.load = Load(options.seed, options.rate, self.big_every, self.ledger, self.bridge.address)
        self.tally = Tally()
        # Of what must not be, all that no counter holds.
        self.wrong: list = []
        self.left_over: list = []
        # Faults that can't be had here, by this user.
        self.left_out: list = []
        self.world = World(self.bridge, self.place, self.proxy, self.found, self.rng, options.longest, asyncio.Lock())
        # Faults of the other row that are not yet over.
        self._under_way = 0
        self._timeline = open(folder / "timeline", "w", encoding="utf-8")

    def common_keys(self) -> str:
        """What every sink here has, in TOML."""
        return (f'topic = "{self.place.prefix}.{{action}}"\nformat = "{self.options.format}"\n'
                f'setup_grace = "{self.options.setup_grace}"\n')

    def sinks(self) -> str:
        """The sinks, in TOML; `main` is the one that is spoiled and read back."""
        return "[sinks.main]\n" + self.common_keys() + self.place.sink(self.proxy.port)

    async def run(self) -> None:
        """All of it; afterwards the tally and what was found say how it went."""
        await asyncio.to_thread(self.place.set_up)
        await self.proxy.listen()
        self.bridge.start()
        await self.bridge.listening()
        await self._up()
        await asyncio.to_thread(self.place.after_start)
        stop = asyncio.Event()
        load = asyncio.create_task(self.load.run(stop))
        try:
            await self._faults(load)
        finally:
            stop.set()
            await load
        say("the load has ended; what waits is awaited")
        await self._settled()
        await asyncio.to_thread(self.place.drain, self.found)
        self.ledger.close()

    async def close(self) -> None:
        """Ends what was started, and puts the broker back as it was; also behind a failure."""
        if self.bridge.running:
            self.bridge.kill()
        await self.proxy.close()
        self._timeline.close()
        await asyncio.to_thread(self.place.set_password, self.place.password)
        await asyncio.to_thread(self.place.clean_up)

    # ------------------------------------------------------------ faults

    async def _faults(self, load: asyncio.Task) -> None:
        """Both rows of faults side by side, until the time is over or something of ours breaks."""
        ends = time.monotonic() + self.options.duration
        rows = [asyncio.create_task(self._one_by_one(ends))]
        if self.options.kill_every:
            rows.append(asyncio.create_task(self._kills(ends)))
        all_rows = asyncio.gather(*rows)
        try:
            done, _ = await asyncio.wait([load, all_rows], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            all_rows.cancel()
            await asyncio.gather(*rows, return_exceptions=True)

    async def _kills(self, ends: float) -> None:
        """Kills of the bridge at random moments, whatever else is going on."""
        rng = random.Random(f"{self.options.seed}/kills")
        looks: list = []
        # One at least, however short the run is.
        while time.monotonic() + (wait := rng.expovariate(1 / self.options.kill_every)) < ends or not looks:
            await asyncio.sleep(wait)
            await FAULTS["bridge_sigkill"](self.world)
            # The next kill does not wait for it.
            looks.append(asyncio.create_task(self._get_over("bridge_sigkill")))
        await asyncio.gather(*looks)

    async def _one_by_one(self, ends: float) -> None:
        """One fault after another, each awaited until delivery goes on."""
        for turn, name in self._deck():
            await asyncio.sleep(self.rng.uniform(*PAUSE))
            if turn > 0 and time.monotonic() > ends:
                return
            self._note(name, "begins")
            self._under_way += 1
            await FAULTS[name](self.world)
            self._under_way -= 1
            if name in ALONE_AFTER:
                async with self.world.bridge_lock:
                    await self._get_over(name)
            else:
                await self._get_over(name)

    def _deck(self):
        """(turn, fault): every kind once in a random order, then again; those that last only in the first two turns."""
        names = [name for name in self.options.faults if name != "bridge_sigkill" or not self.options.kill_every]
        if "broker_refuses" in names and not self.place.can_refuse():
            say("broker_refuses is left out: not as this user")
            names.remove("broker_refuses")
            self.left_out.append("broker_refuses")
        turn = 0
        while names:
            self.rng.shuffle(names)
            yield from ((turn, name) for name in names)
            turn += 1
            if turn == 1:
                names = [name for name in names if name != "rights_revoked"] or names
            if turn == 2:
                names = [name for name in names if name not in LASTING] or names

    async def _get_over(self, name: str) -> None:
        """Measures how long it takes from now to the next confirm."""
        returned, starts = time.time(), self.bridge.starts
        self._note(name, "is over")
        deadline = time.monotonic() + RECOVERY_SECONDS
        while (confirmed := await self._last_confirm()) <= returned:
            other = self._under_way if name == "bridge_sigkill" else 0
            if self.bridge.starts != starts or other:
                # Something else is being done: what would be measured is that.
                self._note(name, "is not measured")
                return
            if time.monotonic() > deadline:
                self._note(name, "is not got over")
                self.tally.not_recovered.append(name)
                return
            await asyncio.sleep(0.03)
        self.tally.recovered(name, confirmed - returned)
        self._note(name, f"is got over after {confirmed - returned:.2f} s")

    async def _last_confirm(self) -> float:
        sink = await self.bridge.sink()
        return moment(sink.get("last_confirm")) if sink else 0.0

    def _note(self, name: str, what: str) -> None:
        self._timeline.write(f"{time.time():.3f} {name} {what}\n")
        self._timeline.flush()

    # ------------------------------------------------------------ the end

    async def _up(self) -> None:
        """Returns once the sink is connected."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            sink = await self.bridge.sink()
            if sink and sink["state"] == "up":
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the bridge did not connect: {sink}")
            await asyncio.sleep(0.05)

    async def _settled(self) -> None:
        """Returns once nothing waits in the bridge; what still does after a long time is left over."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            if not self.bridge.running:
                self.left_over = ["the bridge has ended"]
                return
            sink = await self.bridge.sink()
            self.left_over = ["no status"]
            if sink:
                letters = sum(sink["dead_letters"].values())
                waits = {"waiting events": sink["waiting_events"], "dead letters": letters,
                         "parked topics": len(sink["parked_topics"])}
                self.left_over = [f"{count} {what}" for what, count in waits.items() if count]
            if not self.left_over or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.1)

    def keep_evidence(self, brokers_logs: Path) -> None:
        """Journal, logs, ledger and seed stay where the options say."""
        kept = self.options.keep / self.folder.name
        shutil.copytree(self.folder, kept, dirs_exist_ok=True)
        with contextlib.suppress(OSError):
            shutil.copytree(brokers_logs, kept / "brokers", dirs_exist_ok=True)
        lost = [f"{number} {digits}" for number, digits in self.found.lost()]
        (kept / "lost").write_text("\n".join([*lost, ""]), encoding="ascii")
        options = {name: str(value) for name, value in vars(self.options).items()}
        options["damaged"] = self.found.damaged
        (kept / "run.json").write_text(json.dumps(options, indent=1), encoding="utf-8")
        say(f"kept: {kept}")
