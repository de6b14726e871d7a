"""Apache Kafka: topics of this run, read back by librdkafka through Python."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (AclBinding, AclBindingFilter, AclOperation, AclPermissionType, AdminClient,
                                   ResourcePatternType, ResourceType, ScramCredentialInfo,
                                   ScramMechanism, UserScramCredentialUpsertion)

import broker_kafka
from ledger import Found, read_document
from places.base import PATIENCE, RUN, Place, common, persist, var

PRINCIPAL = "User:limited"


class Kafka(Place):
    name = "kafka"
    deletions = ("topic",)

    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__(prefix, folder)
        self._settings = {"bootstrap.servers": var("KAFKA"), "socket.timeout.ms": 10_000, "log_level": 0}
        # Where reading goes on: (topic, partition) to the next offset.
        self._offsets: dict = {}

    def server(self) -> common.Daemon:
        return broker_kafka.daemons(RUN)[0]

    def upstream(self) -> tuple:
        host, _, port = var("KAFKA_PROXIED").rpartition(":")
        return host, int(port)

    def proxy_port(self) -> int:
        # The broker sends its clients there.
        return int(var("KAFKA_PROXY").rpartition(":")[2])

    def sink(self, proxy_port: int) -> str:
        return (f'type = "kafka"\nbrokers = ["127.0.0.1:{proxy_port}"]\nusername = "limited"\n'
                f'password_file = "{self.password_file}"\n')

    # ------------------------------------------------------------ what an operator does

    def set_up(self) -> None:
        if self.can_refuse():
            self.server().end(graceful=True)
            broker_kafka.disk(RUN, "own")
            self.start()
        super().set_up()

    def can_refuse(self) -> bool:
        # Kafka knows no alarm: its disk has to be full, and must not be anybody else's.
        return os.geteuid() == 0

    def _ask(self, what: str, ask) -> None:
        """Asks the broker something that gives a future, or one for each thing asked for."""
        def work() -> None:
            # Ended with its last reference, and its futures with it.
            admin = AdminClient(self._settings)
            answer = ask(admin)
            for future in [answer] if isinstance(answer, Future) else answer.values():
                future.result(PATIENCE)
        persist(what, work, KafkaException)

    def _rights(self) -> list:
        def right(kind: ResourceType, name: str, pattern: ResourcePatternType) -> AclBinding:
            return AclBinding(kind, name, pattern, PRINCIPAL, "*", AclOperation.ALL, AclPermissionType.ALLOW)
        return [right(ResourceType.TOPIC, self.prefix, ResourcePatternType.PREFIXED),
                right(ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL)]

    def grant(self) -> None:
        self._ask("rights", lambda admin: admin.create_acls(self._rights()))

    def revoke(self) -> None:
        filters = [AclBindingFilter(right.restype, right.name, right.resource_pattern_type, PRINCIPAL, "*",
                                    AclOperation.ANY, AclPermissionType.ANY) for right in self._rights()]
        self._ask("no rights", lambda admin: admin.delete_acls(filters))

    def set_password(self, password: str) -> None:
        mechanism = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8_192)
        change = UserScramCredentialUpsertion("limited", mechanism, password.encode())
        self._ask("password", lambda admin: admin.alter_user_scram_credentials([change]))

    def refuse(self) -> None:
        """The disk of the log directory is full: the broker ends with its next write."""
        broker_kafka.disk(RUN, "full")
        self._await_end()

    def _await_end(self) -> None:
        """Returns once the broker has ended by itself."""
        def work() -> None:
            if self.server().who():
                raise LookupError("it still runs")
        persist("end of a broker whose disk is full", work, LookupError)

    def accept(self) -> None:
        """There is room again, and the operator starts the broker."""
        broker_kafka.disk(RUN, "roomy")
        self.start()

    def delete(self, what: str, found: Found) -> None:
        self.drain(found)
        topics = self._topics()
        topic = max(topics, key=lambda name: (sum(offset for (of, _), offset in self._offsets.items() if of == name),
                                              name))
        self._ask("deletion", lambda admin: admin.delete_topics([topic]))
        persist("deletion", lambda: self._gone(topic), KafkaException, LookupError)
        for place in [place for place in self._offsets if place[0] == topic]:
            del self._offsets[place]

    def _gone(self, topic: str) -> None:
        if topic in self._topics():
            raise LookupError(f"{topic} is still there")

    # ------------------------------------------------------------ reading back

    def _topics(self) -> dict:
        """This run's topics, each with its partitions."""
        def work() -> dict:
            known = AdminClient(self._settings).list_topics(timeout=10).topics
            return {name: list(topic.partitions) for name, topic in known.items() if name.startswith(self.prefix)}
        return persist("topics", work, KafkaException)

    def _consumer(self) -> Consumer:
        return Consumer({**self._settings, "group.id": self.prefix, "enable.auto.commit": False, "check.crcs": True,
                         "max.partition.fetch.bytes": 32 << 20, "fetch.max.bytes": 64 << 20,
                         "receive.message.max.bytes": 70 << 20, "allow.auto.create.topics": False})

    def _ends(self, consumer: Consumer) -> dict:
        """(topic, partition) to the offset behind its last message."""
        def work() -> dict:
            return {(topic, part): consumer.get_watermark_offsets(TopicPartition(topic, part), timeout=10)[1]
                    for topic, parts in self._topics().items() for part in parts}
        return persist("offsets", work, KafkaException)

    def marks(self) -> object:
        consumer = self._consumer()
        try:
            return self._ends(consumer)
        finally:
            consumer.close()

    def drain(self, found: Found) -> None:
        consumer = self._consumer()
        try:
            ends = self._ends(consumer)
            left = {place for place, end in ends.items() if self._offsets.get(place, 0) < end}
            consumer.assign([TopicPartition(*place, self._offsets.get(place, 0)) for place in left])
            deadline = time.monotonic() + PATIENCE
            while left:
                message = consumer.poll(1.0)
                if time.monotonic() > deadline:
                    raise RuntimeError(f"kafka gave nothing for {PATIENCE} s of {left}")
                if message is None or message.error():
                    continue
                deadline = time.monotonic() + PATIENCE
                place = (message.topic(), message.partition())
                self._take(message, found)
                self._offsets[place] = message.offset() + 1
                if self._offsets[place] >= ends[place]:
                    left.discard(place)
        finally:
            consumer.close()

    @staticmethod
    def _take(message, found: Found) -> None:
        headers = dict(message.headers() or [])
        if "ce_id" in headers:
            found.take(message.topic(), headers["ce_id"].decode(), message.value())
        else:
            found.take(message.topic(), *read_document(message.value()))

    def clean_up(self) -> None:
        topics = list(self._topics())
        if topics:
            self._ask("clean-up", lambda admin: admin.delete_topics(topics))
        self.revoke()
