"""NATS JetStream: a stream of this run, read back by nats-py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nats
import nats.errors
import nats.js.errors
from nats.js.api import ConsumerConfig, DeliverPolicy

import broker_nats
from ledger import Found, read_document
from places.base import RUN, Place, common, persist, var

ERRORS = (nats.errors.Error, OSError, asyncio.TimeoutError)


class Nats(Place):
    name = "nats"
    deletions = ("stream",)

    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__(prefix, folder)
        self.stream = prefix.upper()
        # Where reading goes on.
        self._next = 1

    def server(self) -> common.Daemon:
        return broker_nats.daemons(RUN)[0]

    def upstream(self) -> tuple:
        parts = urlsplit(var("NATS"))
        return parts.hostname, parts.port

    def sink(self, proxy_port: int) -> str:
        return (f'type = "nats"\nservers = ["nats://127.0.0.1:{proxy_port}"]\nstream = "{self.stream}"\n'
                f'username = "limited"\npassword_file = "{self.password_file}"\n')

    # ------------------------------------------------------------ what an operator does

    def grant(self) -> None:
        broker_nats.grant(RUN, [f"{self.prefix}.>"], [])

    def revoke(self) -> None:
        broker_nats.grant(RUN, [], [])

    def set_password(self, password: str) -> None:
        broker_nats.set_password(RUN, password)

    def refuse(self) -> None:
        """The stream is at its `max_bytes`, and takes nothing new."""
        self._bound(1)

    def accept(self) -> None:
        self._bound(-1)

    def _bound(self, size: int) -> None:
        async def work(client) -> None:
            info = await self._api(client, "INFO")
            config = dict(info["config"], max_bytes=size if size < 0 else max(1, info["state"]["bytes"]), discard="new")
            await self._api(client, "UPDATE", config)
        self._with_client("bound", work)

    def delete(self, what: str, found: Found) -> None:
        self.drain(found)
        self._with_client("deletion", lambda client: self._api(client, "DELETE"))
        self._next = 1

    # ------------------------------------------------------------ reading back

    def _with_client(self, what: str, work):
        async def whole():
            client = await nats.connect(var("NATS"), connect_timeout=5, allow_reconnect=False)
            try:
                return await work(client)
            finally:
                await client.close()
        return persist(what, lambda: asyncio.run(whole()), *ERRORS)

    async def _api(self, client, verb: str, body=None) -> dict:
        payload = b"" if body is None else json.dumps(body).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.{verb}.{self.stream}", payload, timeout=10)).data)
        if "error" in answer:
            raise nats.errors.Error(f"{verb} {self.stream}: {answer['error']}")
        return answer

    def marks(self) -> object:
        return self._with_client("state", lambda client: self._api(client, "INFO"))["state"]["last_seq"]

    def drain(self, found: Found) -> None:
        self._with_client("reading", lambda client: self._read(client, found))

    async def _read(self, client, found: Found) -> None:
        last = (await self._api(client, "INFO"))["state"]["last_seq"]
        if last < self._next:
            return
        start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._next)
        inbox = await client.jetstream().subscribe("", stream=self.stream, ordered_consumer=True, config=start)
        while self._next <= last:
            message = await inbox.next_msg(timeout=20)
            sequence = message.metadata.sequence.stream
            if sequence < self._next:
                continue
            headers = message.headers or {}
            if "ce-id" in headers:
                found.take(message.subject, unquote(headers["ce-id"]), message.data)
            else:
                found.take(message.subject, *read_document(message.data))
            self._next = sequence + 1

    def clean_up(self) -> None:
        self._with_client("clean-up", lambda client: self._api(client, "DELETE"))
        self.revoke()
