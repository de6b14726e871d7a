"""The self test of RabbitMQ."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import urllib.request
from typing import Iterator, Optional

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from checks import LARGE, MANY, Checks, fresh, steer, until, var


def _password(user: str, password: Optional[str] = None) -> pika.PlainCredentials:
    return pika.PlainCredentials(var(f"RABBITMQ_{user}_USER"), password or var(f"RABBITMQ_{user}_PASSWORD"))


GUEST = pika.PlainCredentials("guest", "guest")


def _plain(credentials: object) -> pika.ConnectionParameters:
    return _parameters("RABBITMQ", credentials)


def _tls(credentials: object, certificate: Optional[str] = None, ca: str = "CA") -> pika.ConnectionParameters:
    context = ssl.create_default_context(cafile=var(ca))
    if certificate:
        context.load_cert_chain(var(f"{certificate}_CERT"), var(f"{certificate}_KEY"))
    return _parameters("RABBITMQ_TLS", credentials, ssl_options=pika.SSLOptions(context, "127.0.0.1"))


def _parameters(name: str, credentials: object, **more: object) -> pika.ConnectionParameters:
    host, _, port = var(name).split("/")[2].rpartition(":")
    return pika.ConnectionParameters(host, int(port), "/", credentials, socket_timeout=4, stack_timeout=4,
                                     blocked_connection_timeout=10, **more)


@contextlib.contextmanager
def _channel(parameters: pika.ConnectionParameters) -> Iterator[object]:
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def _publish(parameters: pika.ConnectionParameters, queue: str, bodies: list) -> None:
    """Publishes to a durable queue of that name, each confirmed."""
    with _channel(parameters) as channel:
        for body in bodies:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def _declare(queue: str) -> None:
    with _channel(_plain(GUEST)) as channel:
        channel.queue_declare(queue, durable=True)


def _read(parameters: pika.ConnectionParameters, queue: str, count: int) -> list:
    bodies: list = []
    with _channel(parameters) as channel:
        for _ in range(count):
            frame, _, body = channel.basic_get(queue, auto_ack=True)
            assert frame is not None, f"{len(bodies)} of {count} messages"
            bodies.append(body)
    return bodies


def _refused(parameters: pika.ConnectionParameters, queue: str) -> None:
    try:
        _publish(parameters, queue, [b"no"])
    except (AMQPError, AMQPConnectorException, OSError):
        return
    raise AssertionError("it was taken")


def _rights(write: str) -> None:
    """Sets what the user `limited` may publish to, through the management API."""
    login = f"{var('RABBITMQ_ADMIN_USER')}:{var('RABBITMQ_ADMIN_PASSWORD')}".encode()
    request = urllib.request.Request(
        f"{var('RABBITMQ_API')}/api/permissions/%2f/limited", method="PUT",
        data=json.dumps({"configure": "^$", "write": write, "read": "^$"}).encode(),
        headers={"Authorization": f"Basic {base64.b64encode(login).decode()}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status in (201, 204), answer.status


def _with_rights() -> None:
    # The default exchange asks for no right to write, so another one.
    exchange = fresh("rights")
    with _channel(_plain(GUEST)) as channel:
        channel.exchange_declare(exchange, "fanout", durable=True)

    def publish() -> None:
        with _channel(_plain(_password("LIMITED"))) as channel:
            channel.basic_publish(exchange, "", b"x")

    def refused() -> bool:
        try:
            publish()
        except AMQPError:
            return True
        return False

    assert refused()
    _rights(f"^{exchange}$")
    publish()
    _rights("^$")
    until(refused, "the right is gone")


def _through_a_crash(queue: str) -> None:
    bodies = [f"before {number}".encode() for number in range(MANY)]
    _publish(_plain(GUEST), queue, bodies)
    steer("kill", "rabbitmq")
    _refused(_plain(GUEST), queue)
    steer("start", "rabbitmq")
    _publish(_plain(GUEST), queue, [b"after"])
    assert _read(_plain(GUEST), queue, MANY + 1) == [*bodies, b"after"]


def _through_a_halt(queue: str) -> None:
    steer("stop", "rabbitmq")
    try:
        _refused(_plain(GUEST), queue)
    finally:
        steer("cont", "rabbitmq")
    _publish(_plain(GUEST), queue, [b"again"])


def run(checks: Checks) -> None:
    external = pika.credentials.ExternalCredentials()
    logins = {
        "plain, guest": _plain(GUEST),
        "plain, administrator": _plain(_password("ADMIN")),
        "TLS, password": _tls(_password("ADMIN")),
        "TLS, EXTERNAL": _tls(external, "CLIENT"),
    }
    for name, parameters in logins.items():
        with checks.check(f"rabbitmq: {name}"):
            queue = fresh("login")
            _declare(queue)
            _publish(parameters, queue, [name.encode()])
            assert _read(parameters, queue, 1) == [name.encode()]
    queue = fresh("refused")
    _declare(queue)
    with checks.check("rabbitmq: wrong password refused"):
        _refused(_plain(_password("ADMIN", "wrong")), queue)
    with checks.check("rabbitmq: stranger's certificate refused"):
        _refused(_tls(external, "STRANGER"), queue)
    with checks.check("rabbitmq: client refuses a server of another authority"):
        _refused(_tls(_password("ADMIN"), ca="OTHER_CA"), queue)
    with checks.check("rabbitmq: rights given and taken"):
        _with_rights()
    with checks.check(f"rabbitmq: {LARGE >> 20} MiB"):
        _publish(_plain(GUEST), queue, [b"x" * LARGE])
        assert len(_read(_plain(GUEST), queue, 1)[0]) == LARGE
    queue = fresh("crash")
    _declare(queue)
    with checks.check(f"rabbitmq: {MANY} messages through kill -9"):
        _through_a_crash(queue)
    with checks.check("rabbitmq: halted, and on again"):
        _through_a_halt(queue)
    with checks.check("rabbitmq: ended and started"):
        steer("term", "rabbitmq")
        steer("start", "rabbitmq")
        assert _read(_plain(GUEST), queue, 1) == [b"again"]
