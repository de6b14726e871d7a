"""The self test of Kafka."""

from __future__ import annotations

import subprocess
from typing import Optional

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (AclBinding, AclOperation, AclPermissionType, AdminClient, NewTopic,
                                   ResourcePatternType, ResourceType)

from checks import LARGE, MANY, Checks, fresh, steer, until, var


def _plain() -> dict:
    return {"bootstrap.servers": var("KAFKA")}


def _sasl(mechanism: str, user: str, password: Optional[str] = None) -> dict:
    return {
        "bootstrap.servers": var("KAFKA_SASL_SSL"),
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": mechanism,
        "sasl.username": var(f"KAFKA_{user}_USER"),
        "sasl.password": password or var(f"KAFKA_{user}_PASSWORD"),
        "ssl.ca.location": var("CA"),
    }


def _certificate(who: str, ca: str = "CA") -> dict:
    return {
        "bootstrap.servers": var("KAFKA_SSL"),
        "security.protocol": "SSL",
        "ssl.ca.location": var(ca),
        "ssl.certificate.location": var(f"{who}_CERT"),
        "ssl.key.location": var(f"{who}_KEY"),
    }


def _create(topic: str, **config: str) -> None:
    # The client must live until the result is there.
    admin = AdminClient({**_plain(), "log_level": 0})
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(30)


def _publish(config: dict, topic: str, bodies: list, seconds: float = 30) -> None:
    """Publishes and waits for each confirmation; raises the first refusal."""
    errors: list = []
    producer = Producer({"acks": "all", "message.max.bytes": 64 << 20, "delivery.timeout.ms": int(seconds * 1000),
                         "log_level": 0, **config})
    for body in bodies:
        producer.produce(topic, body, on_delivery=lambda error, _: errors.append(error) if error else None)
    left = producer.flush(seconds + 5)
    if errors:
        raise KafkaException(errors[0])
    assert left == 0, f"{left} messages without an answer"


def _read(config: dict, topic: str, count: int) -> list:
    consumer = Consumer({"group.id": fresh("self"), "enable.auto.commit": False, "auto.offset.reset": "earliest",
                         "fetch.message.max.bytes": 64 << 20, "log_level": 0, **config})
    consumer.assign([TopicPartition(topic, 0, 0)])
    bodies: list = []
    for _ in range(count):
        message = consumer.poll(30)
        assert message is not None and message.error() is None, message and message.error()
        bodies.append(message.value())
    consumer.close()
    return bodies


def _refused(config: dict, topic: str, body: bytes = b"no") -> None:
    try:
        _publish(config, topic, [body], seconds=4)
    except (KafkaException, AssertionError):
        return
    raise AssertionError("it was taken")


def _no_entry(config: dict, code: int) -> None:
    """Expects that the login fails, with the client's error `code`."""
    seen: list = []
    producer = Producer({"log_level": 0, **config}, error_cb=lambda error: seen.append(error.code()))
    until(lambda: producer.poll(0.05) is not None and code in seen, f"error {code}, saw {set(seen)}")


def _with_rights(topic: str) -> None:
    login = _sasl("SCRAM-SHA-256", "LIMITED")
    _refused(login, topic)
    steer("kafka-acls", "--add", "--allow-principal", "User:limited", "--operation", "Write",
          "--operation", "Describe", "--topic", topic)
    _publish(login, topic, [b"granted"])
    steer("kafka-acls", "--remove", "--force", "--allow-principal", "User:limited", "--operation", "Write",
          "--operation", "Describe", "--topic", topic)
    _refused(login, topic)
    # The same over the protocol, as tests may do it.
    rule = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:limited", "*",
                      AclOperation.WRITE, AclPermissionType.ALLOW)
    admin = AdminClient({**_plain(), "log_level": 0})
    admin.create_acls([rule])[rule].result(30)
    _publish(login, topic, [b"granted"])


def _through_a_crash(topic: str) -> None:
    bodies = [f"before {number}".encode() for number in range(MANY)]
    _publish(_plain(), topic, bodies)
    steer("kill", "kafka")
    _refused(_plain(), topic)
    steer("start", "kafka")
    _publish(_plain(), topic, [b"after"])
    assert _read(_plain(), topic, MANY + 1) == [*bodies, b"after"]


def _through_a_halt(topic: str) -> None:
    steer("stop", "kafka")
    try:
        _refused(_plain(), topic)
    finally:
        steer("cont", "kafka")
    _publish(_plain(), topic, [b"again"])


def run(checks: Checks) -> None:
    logins = {
        "plain": _plain(),
        "SASL_SSL PLAIN": _sasl("PLAIN", "ADMIN"),
        "SASL_SSL SCRAM-SHA-256": _sasl("SCRAM-SHA-256", "ADMIN"),
        "SASL_SSL SCRAM-SHA-512": _sasl("SCRAM-SHA-512", "ADMIN"),
        "SSL client certificate": _certificate("CLIENT"),
    }
    for name, config in logins.items():
        with checks.check(f"kafka: {name}"):
            topic = fresh("login")
            _create(topic)
            _publish(config, topic, [name.encode()])
            assert _read(config, topic, 1) == [name.encode()]
    topic = fresh("refused")
    _create(topic)
    with checks.check("kafka: wrong password refused"):
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            _no_entry(_sasl(mechanism, "ADMIN", "wrong"), KafkaError._AUTHENTICATION)
    with checks.check("kafka: no client certificate refused"):
        # TLS 1.3 tells the client only after its own handshake, by closing.
        _no_entry({"bootstrap.servers": var("KAFKA_SSL"), "security.protocol": "SSL",
                   "ssl.ca.location": var("CA")}, KafkaError._ALL_BROKERS_DOWN)
    with checks.check("kafka: stranger's certificate has no rights"):
        _refused(_certificate("STRANGER"), topic)
    with checks.check("kafka: client refuses a server of another authority"):
        _no_entry(_certificate("CLIENT", "OTHER_CA"), KafkaError._SSL)
    with checks.check("kafka: a missing topic is not made by itself"):
        _refused(_plain(), fresh("missing"))
    with checks.check("kafka: rights given and taken"):
        topic = fresh("rights")
        _create(topic)
        _with_rights(topic)
    with checks.check("kafka: kafka-topics and kafka-configs"):
        topic = fresh("tools")
        steer("kafka-topics", "--create", "--topic", topic)
        steer("kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config",
              f"max.message.bytes={LARGE * 2}")
        _publish(_plain(), topic, [b"x" * LARGE])
        assert len(_read(_plain(), topic, 1)[0]) == LARGE
    with checks.check("kafka: a large message refused by its default"):
        topic = fresh("small")
        _create(topic)
        _refused(_plain(), topic, b"x" * LARGE)
    with checks.check("kafka: kcat reads it"):
        topic = fresh("kcat")
        _create(topic)
        _publish(_plain(), topic, [b"for kcat"])
        said = subprocess.run([var("KCAT"), "-b", var("KAFKA"), "-C", "-t", topic, "-o", "beginning", "-e", "-q"],
                              check=True, capture_output=True, timeout=30)
        assert said.stdout == b"for kcat\n", said
    topic = fresh("crash")
    _create(topic)
    with checks.check(f"kafka: {MANY} messages through kill -9"):
        _through_a_crash(topic)
    with checks.check("kafka: halted, and on again"):
        _through_a_halt(topic)
