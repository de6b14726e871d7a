"""RabbitMQ: an exchange of this run with a durable queue of the harness's, read back by pika."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from pathlib import Path
from typing import Callable, Optional
from urllib.parse import urlsplit

import pika
from pika.exceptions import AMQPError

import broker_rabbitmq
from ledger import Found, read_document
from places.base import RUN, Place, common, persist, var

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
NOTHING = {"configure": "^$", "write": "^$", "read": "^$"}
# Of a queue, how many are acknowledged at a time.
BATCH = 100
# RabbitMQ 4.0 forgets a quorum queue, and what it confirmed, that is killed within about 5 s of being made.
STEADY_SECONDS = 10


class RabbitMq(Place):
    name = "rabbitmq"
    deletions = ("exchange", "queue", "alternate")

    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__(prefix, folder)
        # Bound to all topics; what comes while it is not there is kept by the exchange's alternate.
        self.queue = f"{prefix}-reader"
        self.unrouted = f"{prefix}.unrouted"
        # From when on the broker may be killed, by the monotonic clock; None: the alternate's queue was not yet seen.
        self._steady_at: Optional[float] = None

    def server(self) -> common.Daemon:
        return broker_rabbitmq.daemons(RUN)[-1]

    def upstream(self) -> tuple:
        parts = urlsplit(var("RABBITMQ"))
        return parts.hostname, parts.port

    def sink(self, proxy_port: int) -> str:
        return (f'type = "rabbitmq"\nurl = "amqp://127.0.0.1:{proxy_port}/%2f"\nexchange = "{self.prefix}"\n'
                f'username = "limited"\npassword_file = "{self.password_file}"\n')

    def kill(self) -> bool:
        """A kill that its queues survive: what a broker forgets is not the bridge's loss, and could not be counted."""
        # A bridge makes the alternate's queue when it connects; one that goes on as it was has none to be forgotten.
        deadline = time.monotonic() + STEADY_SECONDS
        while self._steady_at is None and time.monotonic() < deadline:
            if any(name == self.unrouted for name, _ in self.marks()):
                self._steady_at = time.monotonic() + STEADY_SECONDS
            time.sleep(0.1)
        time.sleep(max(0.0, (self._steady_at or 0.0) - time.monotonic()))
        return super().kill()

    # ------------------------------------------------------------ what an operator does

    def _api(self, method: str, path: str, body: Optional[dict] = None) -> Optional[dict]:
        login = base64.b64encode(f"{var('RABBITMQ_ADMIN_USER')}:{var('RABBITMQ_ADMIN_PASSWORD')}".encode()).decode()
        request = urllib.request.Request(
            f"{var('RABBITMQ_API')}/api/{path}", method=method, data=body and json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"})

        def work() -> Optional[dict]:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        return persist(f"{method} {path}", work, OSError)

    def grant(self) -> None:
        self._api("PUT", "permissions/%2f/limited", EVERYTHING)

    def revoke(self) -> None:
        self._api("PUT", "permissions/%2f/limited", NOTHING)

    def set_password(self, password: str) -> None:
        self._api("PUT", "users/limited", {"password": password, "tags": ""})

    def refuse(self) -> None:
        """The memory alarm: publishers are blocked."""
        self._watermark("0.0000001")

    def accept(self) -> None:
        self._watermark("absolute", "1GB")

    @staticmethod
    def _watermark(*mark: str) -> None:
        def work() -> None:
            code = broker_rabbitmq.run_ctl(RUN, ["--quiet", "set_vm_memory_high_watermark", *mark])
            if code:
                raise LookupError(f"rabbitmqctl ended with {code}")
        persist("watermark", work, LookupError)

    def after_start(self) -> None:
        """Subscribes as operators are told to: a queue that is bound, the exchange left to the bridge."""
        # Not a quorum queue, for STEADY_SECONDS' reason.
        self._on_channel("queue", lambda channel: channel.queue_declare(self.queue, durable=True))
        self._on_channel("binding", lambda channel: channel.queue_bind(self.queue, self.prefix, "#"))

    def delete(self, what: str, found: Found) -> None:
        self.drain(found)
        if what == "exchange":
            self._on_channel("deletion", lambda channel: channel.exchange_delete(self.prefix))
        else:
            queue = self.queue if what == "queue" else self.unrouted
            self._on_channel("deletion", lambda channel: channel.queue_delete(queue))
            if what == "alternate":
                self._steady_at = None
                self._on_channel("deletion", lambda channel: channel.exchange_delete(self.unrouted))

    def after_delete(self, what: str) -> None:
        if what != "alternate":
            self.after_start()

    # ------------------------------------------------------------ reading back

    def _on_channel(self, what: str, work: Callable):
        """Does something on a channel of its own, again until the broker lets it."""
        def whole():
            upstream = self.upstream()
            login = pika.PlainCredentials("guest", "guest")
            connection = pika.BlockingConnection(pika.ConnectionParameters(
                *upstream, "/", login, socket_timeout=10, blocked_connection_timeout=10))
            try:
                return work(connection.channel())
            finally:
                if connection.is_open:
                    connection.close()
        return persist(what, whole, AMQPError, OSError)

    def marks(self) -> object:
        """Of the queues that are there, how many messages."""
        found = self._api("GET", "queues/%2f?disable_stats=true&columns=name")
        names = sorted(queue["name"] for queue in found if queue["name"] in (self.queue, self.unrouted))
        return [(name, self._on_channel("count", lambda channel, name=name: channel.queue_declare(
            name, passive=True).method.message_count)) for name in names]

    def drain(self, found: Found) -> None:
        for name, _ in self.marks():
            self._on_channel(f"reading {name}", lambda channel, name=name: self._read(channel, name, found))

    @staticmethod
    def _read(channel, queue: str, found: Found) -> None:
        unacknowledged = 0
        while True:
            frame, properties, body = channel.basic_get(queue)
            if frame is None or unacknowledged == BATCH:
                if unacknowledged:
                    channel.basic_ack(last, multiple=True)
                unacknowledged = 0
            if frame is None:
                return
            last = frame.delivery_tag
            unacknowledged += 1
            # Without a header of ours it is a document.
            headers = properties.headers or {}
            if "cloudEvents_id" in headers:
                found.take(frame.routing_key, headers["cloudEvents_id"], body, frame.redelivered)
            else:
                found.take(frame.routing_key, *read_document(body), frame.redelivered)

    def clean_up(self) -> None:
        for queue in (self.queue, self.unrouted):
            self._on_channel("clean-up", lambda channel, queue=queue: channel.queue_delete(queue))
        for exchange in (self.prefix, self.unrouted):
            self._on_channel("clean-up", lambda channel, exchange=exchange: channel.exchange_delete(exchange))
        self.revoke()
