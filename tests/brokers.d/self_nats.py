"""The self test of NATS."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import urllib.request
from typing import Awaitable, Optional

import nats
from nats.errors import Error

from checks import MANY, Checks, fresh, steer, var

LARGE = 16 * 1024 * 1024


def _user(user: str, password: Optional[str] = None) -> dict:
    return {"servers": var("NATS"), "user": var(f"NATS_{user}USER"),
            "password": password or var(f"NATS_{user}PASSWORD")}


async def _connect(login: dict) -> nats.NATS:
    async def quiet(_error: Exception) -> None:
        pass

    # Left alone it tries for ever.
    attempt = nats.connect(allow_reconnect=False, max_reconnect_attempts=0, connect_timeout=3, error_cb=quiet, **login)
    return await asyncio.wait_for(attempt, 4)


async def _publish(login: dict, subject: str, bodies: list) -> None:
    """Publishes into a stream, each acknowledged."""
    client = await _connect(login)
    try:
        for body in bodies:
            await client.jetstream().publish(subject, body, timeout=4)
    finally:
        await client.close()


async def _read(login: dict, subject: str, count: int) -> list:
    client = await _connect(login)
    try:
        consumer = await client.jetstream().pull_subscribe(subject, fresh("self"))
        bodies: list = []
        while len(bodies) < count:
            for message in await consumer.fetch(min(100, count - len(bodies)), timeout=10):
                bodies.append(message.data)
                await message.ack()
        return bodies
    finally:
        await client.close()


async def _stream(login: dict, subject: str) -> None:
    client = await _connect(login)
    try:
        await client.jetstream().add_stream(name=fresh("SELF"), subjects=[subject], max_msg_size=-1)
    finally:
        await client.close()


async def _refused(attempt: Awaitable) -> None:
    try:
        await attempt
    except (Error, OSError, asyncio.TimeoutError):
        return
    raise AssertionError("it was taken")


async def _round(login: dict, body: bytes) -> None:
    subject = fresh("self")
    await _stream(login, subject)
    await _publish(login, subject, [body])
    assert await _read(login, subject, 1) == [body]


async def _with_rights() -> None:
    subject, other = fresh("rights"), fresh("rights")
    for name in (subject, other):
        await _stream({"servers": var("NATS")}, name)
    await _refused(_publish(_user("LIMITED_"), subject, [b"no"]))
    steer("nats-rights", "--publish", subject)
    await _publish(_user("LIMITED_"), subject, [b"granted"])
    await _refused(_publish(_user("LIMITED_"), other, [b"no"]))
    steer("nats-rights", "--publish", "alma.job_end")
    await _refused(_publish(_user("LIMITED_"), subject, [b"no"]))


async def _through_a_crash(subject: str) -> None:
    login = {"servers": var("NATS")}
    bodies = [f"before {number}".encode() for number in range(MANY)]
    await _stream(login, subject)
    await _publish(login, subject, bodies)
    steer("kill", "nats")
    await _refused(_publish(login, subject, [b"no"]))
    steer("start", "nats")
    await _publish(login, subject, [b"after"])
    assert await _read(login, subject, MANY + 1) == [*bodies, b"after"]


async def _through_a_halt(subject: str) -> None:
    login = {"servers": var("NATS")}
    steer("stop", "nats")
    try:
        await _refused(_publish(login, subject, [b"no"]))
    finally:
        steer("cont", "nats")
    await _publish(login, subject, [b"again"])


def _program(ca: str, *arguments: str) -> str:
    """Runs the program `nats` over TLS. Python's client begins no TLS that the server does not demand."""
    told = subprocess.run([var("NATS_CLI"), "--server", var("NATS_TLS"), "--tlsca", var(ca), "--timeout", "4s",
                           "--user", var("NATS_USER"), "--password", var("NATS_PASSWORD"), *arguments],
                          check=True, capture_output=True, text=True, timeout=30)
    return told.stdout


async def _over_tls() -> None:
    subject = fresh("tls")
    login = {"servers": var("NATS")}
    await _stream(login, subject)
    _program("CA", "pub", "--jetstream", subject, "over TLS")
    assert await _read(login, subject, 1) == [b"over TLS"]
    try:
        _program("OTHER_CA", "pub", "--jetstream", subject, "no")
    except subprocess.CalledProcessError as error:
        assert "certificate" in error.stderr, error.stderr
    else:
        raise AssertionError("a server of another authority was taken")


def _answers_without_login() -> None:
    with urllib.request.urlopen(f"{var('NATS_MONITOR')}/healthz", timeout=5) as answer:
        assert answer.status == 200


def run(checks: Checks) -> None:
    # What the client logs of refused logins is expected here.
    logging.disable(logging.CRITICAL)
    operator = {"servers": var("NATS_OPERATOR_URL"), "user_credentials": var("NATS_CREDS_FILE")}
    logins = {
        "plain, anonymous": {"servers": var("NATS")},
        "password": _user(""),
        "nkey": {"servers": var("NATS"), "nkeys_seed": var("NATS_NKEY_FILE")},
        "token": {"servers": var("NATS_TOKEN_URL"), "token": var("NATS_TOKEN")},
        "creds file": operator,
    }
    for name, login in logins.items():
        with checks.check(f"nats: {name}"):
            asyncio.run(_round(login, name.encode()))
    with checks.check("nats: wrong password refused"):
        asyncio.run(_refused(_connect(_user("", "wrong"))))
    with checks.check("nats: no token refused"):
        asyncio.run(_refused(_connect({"servers": var("NATS_TOKEN_URL")})))
    with checks.check("nats: no creds refused"):
        asyncio.run(_refused(_connect({"servers": var("NATS_OPERATOR_URL")})))
    with checks.check("nats: TLS; client refuses a server of another authority"):
        asyncio.run(_over_tls())
    with checks.check("nats: rights given and taken"):
        asyncio.run(_with_rights())
    for name, login in (("plain", logins["plain, anonymous"]), ("creds file", operator)):
        with checks.check(f"nats: {LARGE >> 20} MiB, {name}"):
            asyncio.run(_round(login, b"x" * LARGE))
    with checks.check("nats: a large message refused by its default"):
        asyncio.run(_refused(_round(logins["token"], b"x" * LARGE)))
    with checks.check("nats: the monitor port"):
        _answers_without_login()
    subject = fresh("crash")
    with checks.check(f"nats: {MANY} messages through kill -9"):
        asyncio.run(_through_a_crash(subject))
    with checks.check("nats: halted, and on again"):
        asyncio.run(_through_a_halt(subject))
    for name, login in (("nats-token", logins["token"]), ("nats-operator", operator)):
        with checks.check(f"{name}: kill -9 and start"):
            steer("kill", name)
            asyncio.run(_refused(_connect(login)))
            steer("start", name)
            asyncio.run(_round(login, b"again"))
