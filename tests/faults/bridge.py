"""The real binary: its configuration, its process, and what its operators' listener says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Optional

import events

CONFIG = """data_dir = "{data}"
[ingress]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[sources.alma]
path = "/webhooks"
secret_file = "{secret}"
[journal]
retain_size = "128MiB"
{journal}
[log]
format = "json"
"""
# A start opens the journal; a machine that is busy takes longer.
START_SECONDS = 60


def replace_file(path: Path, text: str) -> None:
    """Whole or not at all, and for this user alone."""
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(path)


def moment(text: Optional[str]) -> float:
    """Seconds since 1970 of an RFC 3339 moment in UTC; 0 for none."""
    if text is None:
        return 0.0
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


class Bridge:
    """One data folder and the process that works in it, again and again."""

    def __init__(self, binary: Path, folder: Path, sinks: str, journal: str = "") -> None:
        self.binary = binary
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "bridge.log"
        self.starts = 0
        self._child: Optional[subprocess.Popen] = None
        self._addresses: dict = {}
        replace_file(folder / "secret", events.SECRET.decode("ascii"))
        self.config = folder / "alma-bridge.toml"
        replace_file(self.config, CONFIG.format(data=self.data, secret=folder / "secret", journal=journal) + sinks)

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def address(self) -> Optional[tuple]:
        """(host, port) where Alma's requests go; none while it is not known."""
        return self._addresses.get("ingress")

    def start(self) -> None:
        """Starts the process; does not wait for it."""
        self._addresses = {}
        with contextlib.suppress(FileNotFoundError):
            (self.data / "listeners.json").unlink()
        env = {name: value for name, value in os.environ.items() if not name.startswith("ALMA_BRIDGE_")}
        env.pop("STATE_DIRECTORY", None)
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen([self.binary, "run", "--config", self.config], env=env, stdout=log,
                                           stderr=log, stdin=subprocess.DEVNULL)
        self.starts += 1

    async def listening(self) -> None:
        """Returns once the addresses are known."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                told = json.loads((self.data / "listeners.json").read_text(encoding="utf-8"))
                split = {name: address.rpartition(":") for name, address in told.items()}
                self._addresses = {name: (host, int(port)) for name, (host, _, port) in split.items()}
                return
            if not self.running:
                raise RuntimeError(f"the bridge ended with {self._child.returncode} at its start: see {self.log}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the bridge did not listen within {START_SECONDS} s: see {self.log}")
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, and it is gone. Raises if it had ended by itself."""
        if not self.running:
            raise RuntimeError(f"the bridge ended by itself with {self._child.returncode}: see {self.log}")
        self._child.kill()
        self._child.wait()
        self._addresses = {}

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._child.terminate()
        code = await asyncio.to_thread(self._child.wait, 60)
        self._addresses = {}
        return code

    def reload(self) -> None:
        self._child.send_signal(signal.SIGHUP)

    async def get(self, path: str) -> Optional[bytes]:
        """The body that the operators' listener gives; none where nobody answers."""
        address = self._addresses.get("admin")
        if address is None:
            return None
        try:
            return await asyncio.wait_for(self._get(address, path), 5)
        except (OSError, EOFError, asyncio.TimeoutError):
            return None

    @staticmethod
    async def _get(address: tuple, path: str) -> Optional[bytes]:
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            return body if head.split(b" ")[1:2] == [b"200"] else None
        finally:
            writer.close()

    async def status(self) -> Optional[dict]:
        body = await self.get("/status")
        return json.loads(body) if body else None

    async def sink(self, name: str = "main") -> Optional[dict]:
        """What the status says of one sink."""
        status = await self.status()
        return next((sink for sink in status["sinks"] if sink["name"] == name), None) if status else None

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's lines that have these labels; 0 where there is none."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = (await self.get("/metrics") or b"").decode().splitlines()
        hits = [line for line in lines if line.split("{")[0].split(" ")[0] == f"alma_bridge_{name}"]
        return sum(float(line.rpartition(" ")[2]) for line in hits if all(label in line for label in wanted))
