"""What all brokers have in common: their process, and what a fault may ask of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Callable

from ledger import Found


def var(name: str) -> str:
    """A variable of `tests/brokers run`."""
    try:
        return os.environ[f"ALMA_BRIDGE_TEST_{name}"]
    except KeyError:
        sys.exit(f"ALMA_BRIDGE_TEST_{name} is not set: run me by `tests/brokers run tests/faults/run …`")


sys.path.insert(0, str(Path(var("BROKERS")).parent / "brokers.d"))

import common  # noqa: E402

# The daemon's own messages go to stderr, one a restart.
RUN = common.Run(Path(var("RUN")))
# A broker that was killed may take so long to answer a client again.
PATIENCE = 60


def persist(what: str, work: Callable, *expected: type):
    """Does `work` again until it does not fail as `expected`; for brokers that are just coming back."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except expected as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {PATIENCE} s: {error}") from error
            time.sleep(0.1)


class Place:
    """One broker, with the topics, the exchange or the stream of this run. Its methods block."""

    # Its name, and what a deletion takes away.
    name: str
    deletions: tuple

    def __init__(self, prefix: str, folder: Path) -> None:
        # Of all topics, unlike those of any other run.
        self.prefix = prefix
        self.password_file = folder / "password"
        self.password = var(f"{self.name.upper()}_LIMITED_PASSWORD")

    def server(self) -> common.Daemon:
        """Its process."""
        raise NotImplementedError

    def upstream(self) -> tuple:
        """(host, port) for the proxy."""
        raise NotImplementedError

    def proxy_port(self) -> int:
        """Where the proxy listens."""
        return common.free_ports(["proxy"])["proxy"]

    def sink(self, proxy_port: int) -> str:
        """The sink's keys, in TOML."""
        raise NotImplementedError

    # ------------------------------------------------------------ its process

    def kill(self) -> bool:
        """kill -9; whether there was a process."""
        return self.server().end(graceful=False)

    def start(self) -> None:
        """Starts it and returns once it answers."""
        server = self.server()
        server.start()
        server.wait_ready()

    def hang(self) -> None:
        self.server().signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.server().signal(signal.SIGCONT)

    # ------------------------------------------------------------ what an operator does

    def set_up(self) -> None:
        """Before the bridge starts."""
        self.grant()

    def after_start(self) -> None:
        """Once the bridge has connected."""

    def grant(self) -> None:
        """Gives the bridge's user all rights on what is this run's."""
        raise NotImplementedError

    def revoke(self) -> None:
        """Takes all of them away."""
        raise NotImplementedError

    def set_password(self, password: str) -> None:
        """Gives the bridge's user another password."""
        raise NotImplementedError

    def can_refuse(self) -> bool:
        """Whether a refusal can be had on this machine."""
        return True

    def refuse(self) -> None:
        """From here on the broker takes nothing, for want of room."""
        raise NotImplementedError

    def accept(self) -> None:
        """It has room again."""
        raise NotImplementedError

    def delete(self, what: str, found: Found) -> None:
        """Takes away one of `deletions`, behind the proxy held: what the broker confirmed is read back first."""
        raise NotImplementedError

    def after_delete(self, what: str) -> None:
        """What the operator then puts back by hand: what the bridge may not make."""

    # ------------------------------------------------------------ reading back

    def settle(self) -> None:
        """Returns once nothing comes any more; for a proxy that is held."""
        before = None
        deadline = time.monotonic() + PATIENCE
        while (now := self.marks()) != before:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} still takes events behind a proxy that is held")
            before = now
            time.sleep(0.3)

    def marks(self) -> object:
        """What differs once the broker has taken one more event."""
        raise NotImplementedError

    def drain(self, found: Found) -> None:
        """Reads all that is there now and was not read before."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Takes away what this run made."""
