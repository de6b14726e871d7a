"""What was sent, what the bridge acknowledged, and what the brokers were found to hold."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from events import Event


class Ledger:
    """An acknowledged event counts once its line is fsynced; then it is owed."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="ascii")
        self._lines: queue.Queue = queue.Queue()
        # Of every event that was ever sent, acknowledged or not: digits to (number, SHA-256, action of its topic).
        self.sent: dict = {}
        # Digits of those that count.
        self.acknowledged: dict = {}
        # Why the thread has ended early: what is acknowledged from then on would count for nothing.
        self._broken: Optional[Exception] = None
        self._writer = threading.Thread(target=self._write, name="ledger")
        self._writer.start()

    def will_send(self, event: Event) -> None:
        self.sent[event.digits] = (event.number, event.digest, event.action)

    def acknowledge(self, event: Event) -> None:
        """The bridge answered 2xx. Raises if the ledger can't keep it."""
        self._check()
        self._lines.put((event, time.time()))

    def close(self) -> None:
        """Returns once all that was acknowledged counts. Raises if something of it does not."""
        self._lines.put(None)
        self._writer.join()
        self._file.close()
        self._check()

    def _check(self) -> None:
        if self._broken:
            raise RuntimeError(f"the ledger can't be written: {self._broken}") from self._broken

    def _write(self) -> None:
        try:
            self._write_all()
        except OSError as error:
            self._broken = error

    def _write_all(self) -> None:
        """One fsync for all lines that came meanwhile."""
        ended = False
        while not ended:
            group = [self._lines.get()]
            while not self._lines.empty():
                group.append(self._lines.get())
            entries = [entry for entry in group if entry is not None]
            ended = len(entries) < len(group)
            for event, moment in entries:
                self._file.write(f"{event.number} {event.digest} {len(event.body)} {moment:.6f}\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            for event, moment in entries:
                self.acknowledged.setdefault(event.digits, moment)


@dataclass
class Found:
    """Fed by the readers: one call for each message that a broker holds."""

    ledger: Ledger
    folder: Path
    # Of all topics: what stands before the dot and the action.
    prefix: str
    # Digits to the number of messages.
    times: Counter = field(default_factory=Counter)
    places: Counter = field(default_factory=Counter)
    damaged: list = field(default_factory=list)
    # What a consumer was given twice by the broker itself: no repeat of the bridge's.
    redelivered: int = 0

    def take(self, place: str, event_id: str, data: bytes, redelivered: bool = False) -> None:
        """A message: its topic, its CloudEvents id, and its data byte for byte."""
        digest = hashlib.sha256(data).hexdigest()
        # Where Alma's id can't be read the id is 32 digits alone.
        digits = event_id.rpartition(".")[2][:16]
        sent = self.ledger.sent.get(digits)
        if sent is None or sent[1] != digest:
            self.damage(place, event_id, data, "no such event was sent" if sent is None else "other bytes than sent")
            return
        # Who subscribes to an action never sees what is under another.
        if place != (topic := f"{self.prefix}.{sent[2]}"):
            self.damage(place, event_id, data, f"expected under {topic}")
            return
        if redelivered and digits in self.times:
            self.redelivered += 1
            return
        self.times[digits] += 1
        self.places[place] += 1

    def damage(self, place: str, event_id: Optional[str], data: bytes, why: str) -> None:
        """A message that is not what was sent; it is kept."""
        name = f"damaged-{len(self.damaged)}"
        (self.folder / name).write_bytes(data)
        self.damaged.append({"place": place, "id": event_id, "why": why, "bytes": len(data), "kept": name})

    def lost(self) -> list:
        """What was acknowledged and is nowhere: (number, digits), in order."""
        missing = [digits for digits in self.ledger.acknowledged if digits not in self.times]
        return sorted((self.ledger.sent[digits][0], digits) for digits in missing)

    @property
    def repeated(self) -> int:
        """Messages beyond the first of their event."""
        return sum(count - 1 for count in self.times.values())


def read_document(document: bytes) -> tuple:
    """(id, data) of a CloudEvents JSON document; JSON data are the very bytes that stand there.

    A quote within a string is escaped, so that the first `,"data":` is the attribute's name.
    """
    attributes, _, data = document.partition(b',"data":')
    if data:
        known = json.loads(attributes + b"}")
        data = data[:-1]
        if known["datacontenttype"] == "application/xml":
            data = json.loads(data).encode()
        return known["id"], data
    known = json.loads(document)
    return known["id"], base64.b64decode(known["data_base64"], validate=True)
