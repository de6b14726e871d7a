"""The fleet harness: three bridges behind a load balancer, on a broker cluster of three nodes, under load and kill -9.

    tests/brokers run --only nats tests/fleet/run --broker nats --storage disk --duration 10m --seed 1

It kills bridges and broker nodes at random, one node at a time, and then reads the cluster back with an independent
client. It prints a table and exits with 1 if an acknowledged event is lost or damaged, or if an answer came late.
It then keeps ledger, journals and logs in a folder that it names: docs/fleet.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(REPOSITORY / "tests/faults"))

from balancer import Balancer  # noqa: E402
from bridge import Bridge  # noqa: E402
from clusters import CLUSTERS, RUN  # noqa: E402
from ledger import Found, Ledger  # noqa: E402
from load import Load  # noqa: E402

BRIDGES = 3
# For what waits, once nothing is killed any more.
SETTLE_SECONDS = 240
# For a cluster to be whole again after a node came back.
IN_SYNC_SECONDS = 120
START_SECONDS = 90


def seconds(text: str) -> float:
    """Of `90s` or `10m`."""
    found = re.fullmatch(r"(\d+)(s|m|h)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s or 10m, found `{text}`")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3_600}[found[2]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/fleet/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True, choices=sorted(CLUSTERS))
    parser.add_argument("--storage", choices=["disk", "none"], default="disk")
    parser.add_argument("--duration", type=seconds, default=60.0, help="of the kills; default 60s")
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, which the table names")
    parser.add_argument("--rate", type=float, default=20.0, help="events a second; default 20")
    parser.add_argument("--bridge", type=Path, default=REPOSITORY / "target/debug/alma-bridge", metavar="BINARY")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "alma-bridge-fleet", metavar="FOLDER",
                        help="where a failed run's evidence goes; default %(default)s")
    parser.add_argument("--overlook-one", action="store_true",
                        help="the reader overlooks one acknowledged event: shows that the verdict can fail")
    return parser.parse_args()


def say(text: str) -> None:
    print(f"fleet: {text}", file=sys.stderr, flush=True)


async def until(what: str, limit: float, holds) -> None:
    """Returns once `holds()` is true; a failure names `what`."""
    deadline = time.monotonic() + limit
    while not await holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {limit:.0f} s")
        await asyncio.sleep(0.2)


class Fleet:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        prefix = f"fleet{options.seed}-{int(time.time())}"
        self.cluster = CLUSTERS[options.broker](prefix, folder)
        self.ledger = Ledger(folder / "ledger")
        self.found = Found(self.ledger, folder, prefix)
        self.kills = {"bridge": 0, "node": 0}
        self.left_over: list = []
        self.port = 0
        self._forwarder = None
        self.bridges: list = []
        self.balancer = Balancer(self.bridges)

    async def run(self) -> None:
        say(f"{self.options.broker}, storage {self.options.storage}, seed {self.options.seed}")
        await asyncio.to_thread(self.cluster.begin)
        await until("the cluster is whole", IN_SYNC_SECONDS, self._in_sync)
        # RabbitMQ's sink has one address, so a forwarder leads it to a node that lives.
        ports = getattr(self.cluster, "ports", [])
        self._forwarder = await asyncio.start_server(lambda *ends: forward(ports, *ends), "127.0.0.1", 0)
        self.port = self._forwarder.sockets[0].getsockname()[1]
        sink = f'[sinks.main]\ntopic = "{self.cluster.prefix}.{{action}}"\n{self.cluster.sink(self.port)}'
        for number in range(BRIDGES):
            home = self.folder / f"bridge-{number + 1}"
            home.mkdir()
            journal = 'storage = "none"' if self.options.storage == "none" else ""
            self.bridges.append(Bridge(self.options.bridge.resolve(), home, sink, journal))
        for bridge in self.bridges:
            bridge.start()
        for bridge in self.bridges:
            await bridge.listening()
            await until("a bridge connects", START_SECONDS, lambda bridge=bridge: self._up(bridge))
        await asyncio.to_thread(self.cluster.after_start)
        await self.balancer.listen()
        await until("the balancer sees all bridges", START_SECONDS, self._all_ready)
        self.load = Load(self.options.seed, self.options.rate, 15.0, self.ledger, self.balancer.address)
        stop = asyncio.Event()
        load = asyncio.create_task(self.load.run(stop))
        ends = time.monotonic() + self.options.duration
        try:
            await asyncio.gather(self._kill_bridges(ends), self._kill_nodes(ends))
        finally:
            stop.set()
            await load
        say("the load has ended; what waits is awaited")
        await self._settle()
        await asyncio.to_thread(self.cluster.drain, self.found)
        self.ledger.close()
        if self.options.overlook_one:
            self.found.times.pop(next(iter(self.ledger.acknowledged)))

    async def _kill_bridges(self, ends: float) -> None:
        rng = random.Random(f"{self.options.seed}/bridges")
        while time.monotonic() + (wait := rng.uniform(3, 12)) < ends or not self.kills["bridge"]:
            await asyncio.sleep(wait)
            bridge = rng.choice(self.bridges)
            bridge.kill()
            self.kills["bridge"] += 1
            await asyncio.sleep(rng.uniform(0, 5))
            bridge.start()
            await bridge.listening()

    async def _kill_nodes(self, ends: float) -> None:
        """One node at a time: the next is killed only when the cluster is whole again."""
        rng = random.Random(f"{self.options.seed}/nodes")
        while time.monotonic() + (wait := rng.uniform(3, 15)) < ends or not self.kills["node"]:
            await asyncio.sleep(wait)
            node = rng.choice(self.cluster.nodes)
            await asyncio.to_thread(node.end, graceful=False)
            self.kills["node"] += 1
            await asyncio.sleep(rng.uniform(1, 15))
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(node.wait_ready)
            await until("the cluster is whole again", IN_SYNC_SECONDS, self._in_sync)

    async def _in_sync(self) -> bool:
        try:
            return await asyncio.to_thread(self.cluster.in_sync)
        except Exception as error:  # Kafka's client raises its own type while the nodes elect a leader.
            say(f"the cluster does not answer yet: {type(error).__name__}")
            return False

    async def _up(self, bridge: Bridge) -> bool:
        sink = await bridge.sink()
        return bool(sink) and sink["state"] == "up"

    async def _all_ready(self) -> bool:
        return len(self.balancer.ready) == BRIDGES

    async def _settle(self) -> None:
        """Returns once nothing waits in any bridge."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            sinks = [await bridge.sink() for bridge in self.bridges]
            self.left_over = [
                f"bridge {number}: {sink and (sink.get('waiting_events'), sink.get('dead_letters'))}"
                for number, sink in enumerate(sinks, 1)
                if not sink or sink.get("waiting_events") or sum((sink.get("dead_letters") or {}).values())]
            if not self.left_over or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        for bridge in self.bridges:
            if bridge.running:
                bridge.kill()
        await self.balancer.close()
        if self._forwarder:
            self._forwarder.close()
        await asyncio.to_thread(self.cluster.end)

    # ------------------------------------------------------------ the verdict

    def failures(self) -> list:
        load, found = self.load, self.found
        counts = {
            "acknowledged events lost": len(found.lost()),
            "events damaged": len(found.damaged),
            "requests not answered within 5 s": load.slow,
            "requests refused or cut by the balancer": load.outcomes["refused"] + load.outcomes["cut"],
            "good events answered with a 4xx": load.outcomes["rejected"],
        }
        told = [f"{count} {what}" for what, count in counts.items() if count]
        if not self.ledger.acknowledged:
            told.append("no event was acknowledged: nothing was tried")
        return told + [f"left over: {what}" for what in self.left_over]

    def table(self) -> str:
        load, found, acknowledged = self.load, self.found, self.ledger.acknowledged
        listed = lambda counter: ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"  # noqa: E731
        rows = [
            ("broker, storage", f"{self.options.broker}, {self.options.storage}"),
            ("seed, duration", f"{self.options.seed}, {self.options.duration:.0f} s"),
            ("load", f"{self.options.rate:g}/s, {len(self.ledger.sent)} events; worst {load.behind:.2f} s behind"),
            ("bridges killed, nodes killed", f"{self.kills['bridge']}, {self.kills['node']}"),
            ("answers", listed(load.outcomes)),
            ("retried by the balancer", listed(self.balancer.retries)),
            ("events acknowledged", len(acknowledged)),
            ("events found", len(found.times)),
            ("of them never acknowledged", sum(digits not in acknowledged for digits in found.times)),
            ("**lost**, **damaged**", f"{len(found.lost())}, {len(found.damaged)}"),
            ("repeated", found.repeated),
            ("not answered within 5 s", load.slow),
            ("slowest acknowledgement", f"{load.slowest:.2f} s"),
        ]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])

    def keep_evidence(self) -> None:
        kept = self.options.keep / self.folder.name
        shutil.copytree(self.folder, kept, dirs_exist_ok=True)
        with contextlib.suppress(OSError):
            shutil.copytree(RUN.path("logs"), kept / "brokers", dirs_exist_ok=True)
        say(f"kept: {kept}")


async def forward(ports: list, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connects a client to the first of `ports`, in a random order, where somebody listens."""
    async def copy(source, sink) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()
        sink.close()

    for port in random.sample(ports, len(ports)):
        with contextlib.suppress(OSError):
            far = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, far[1]), copy(far[0], writer))
            return
    writer.close()


async def whole(fleet: Fleet) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    try:
        await fleet.run()
    finally:
        await fleet.close()


def main() -> int:
    options = arguments()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix=f"fleet-{options.broker}-{options.seed}-"))
    fleet = Fleet(options, folder)
    try:
        try:
            asyncio.run(whole(fleet))
        except BaseException:
            with contextlib.suppress(RuntimeError):
                fleet.ledger.close()
            fleet.keep_evidence()
            raise
        print(fleet.table(), flush=True)
        wrong = fleet.failures()
        for what in wrong:
            say(what)
        if wrong:
            fleet.keep_evidence()
        return 1 if wrong else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
