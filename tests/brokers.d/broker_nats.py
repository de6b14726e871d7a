"""nats-server with JetStream, three of them: the main one, one that wants a token, one in operator mode."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import Callable

from common import HOST, Daemon, Failure, Run, cached, free_ports, http, need, stage, tool

SERVER = "2.15.2"
MODULES = {
    "nats-server": f"github.com/nats-io/nats-server/v2@v{SERVER}",
    "nats": "github.com/nats-io/natscli/nats@v0.5.1",
    "nk": "github.com/nats-io/nkeys/nk@v0.4.17",
}

# `sync_interval: always`: an acknowledged message is on the disk.
COMMON = """
server_name: {name}
listen: "{host}:{client}"
http: "{host}:{monitor}"
jetstream {{
  store_dir: "{store}"
  sync_interval: always
  max_memory_store: 256MB
  max_file_store: 8GB
}}
"""

MAIN = COMMON + """
max_payload: 64MB
tls {{
  cert_file: "{certs}/server.pem"
  key_file: "{certs}/server.key"
  ca_file: "{certs}/ca.pem"
  timeout: 5
}}
allow_non_tls: true
no_auth_user: anonymous
authorization {{
  users = [
    {{ user: anonymous, password: "{anonymous_password}" }}
    {{ user: user, password: "{user_password}" }}
    {{ nkey: "{nkey}" }}
    {{ user: limited, password: "{limited_password}", permissions: {{ include "limited.conf" }} }}
  ]
}}
"""

# The server's own limit of 1 MiB for a message.
TOKEN = COMMON + """
authorization {{ token: "{token}" }}
"""

OPERATOR = COMMON + """
max_payload: 64MB
operator: "{operator}"
system_account: "{system}"
resolver: MEMORY
resolver_preload: {{
{accounts}
}}
"""


def programs() -> tuple:
    """The folder with the programs, built if it is not in the cache."""
    def make(folder: Path, _final: Path) -> None:
        go = need("go")
        env = dict(os.environ, GOBIN=str(folder), CGO_ENABLED="0")
        for name, module in MODULES.items():
            with stage("nats", f"go install {name}"):
                tool([go, "install", module], env=env, cwd=folder, low=True)

    versions = "-".join(module.rpartition("@v")[2] for module in MODULES.values())
    return cached(f"nats-{versions}", make)


def _settings() -> dict:
    ports = free_ports([f"{kind}{server}" for server in ("", "_token", "_operator")
                        for kind in ("client", "monitor")])
    return {
        "ports": ports,
        "anonymous_password": secrets.token_hex(12),
        "user_password": secrets.token_hex(12),
        "limited_password": secrets.token_hex(12),
        "token": secrets.token_hex(12),
    }


def _rights(publish: list, subscribe: list) -> str:
    """The rights of `limited`: the subjects given, and what any user of JetStream needs."""
    return (f'publish: {{ allow: {json.dumps(["$JS.API.>", "$JS.ACK.>", *publish])} }}\n'
            f'subscribe: {{ allow: {json.dumps(["_INBOX.>", *subscribe])} }}\n')


def _nkey(run: Run, folder: Path) -> str:
    """Makes the key of the nkey user; its public half."""
    seed = run.write(run.path("nats", "user.nk"), tool([folder / "nk", "-gen", "user"]).strip() + "\n")
    return tool([folder / "nk", "-inkey", seed, "-pubout"]).strip()


def _operator(run: Run, folder: Path) -> dict:
    """Makes operator, account and user with the `nats` program, away from the user's own settings."""
    home = run.path("nats", "operator")
    for part in ("config", "data"):
        (home / part).mkdir(parents=True)
    env = dict({name: value for name, value in os.environ.items() if not name.startswith("NATS_")},
               HOME=str(home), XDG_CONFIG_HOME=str(home / "config"), XDG_DATA_HOME=str(home / "data"))

    def auth(*arguments: str) -> None:
        tool([folder / "nats", "auth", *arguments], env=env, cwd=home)

    auth("operator", "add", "ALMA")
    # Without limits for the storage it asks for them at the terminal.
    auth("account", "add", "BRIDGE", "--operator=ALMA", "--defaults", "--jetstream", "--js-disk=8GB",
         "--js-memory=256MB", "--payload=64MB")
    auth("user", "add", "bridge", "BRIDGE", "--operator=ALMA", "--defaults", "--payload=-1",
         f"--credential={run.path('nats', 'user.creds')}")

    store = home / "data/nats/nsc/stores/ALMA"
    accounts = {}
    for file in sorted(store.glob("accounts/*/*.jwt")):
        token = file.read_text(encoding="ascii").strip()
        payload = token.split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
        accounts[file.stem] = (subject, token)
    return {
        "operator": store / "ALMA.jwt",
        "system": accounts["SYSTEM"][0],
        "accounts": "\n".join(f"  {subject}: {token}" for subject, token in accounts.values()),
    }


def _configure(run: Run, folder: Path) -> None:
    home = run.path("nats")
    if (home / "configured").exists():
        return
    settings = run.settings("nats", _settings)
    ports = settings["ports"]
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)

    def common(name: str, suffix: str) -> dict:
        return {"name": name, "host": HOST, "client": ports[f"client{suffix}"],
                "monitor": ports[f"monitor{suffix}"], "store": home / "data" / name}

    run.write(home / "limited.conf", _rights(["alma.job_end"], []))
    run.write(home / "nats.conf", MAIN.format(
        certs=run.path("certs"), nkey=_nkey(run, folder), **common("nats", ""),
        **{name: value for name, value in settings.items() if name.endswith("_password")}))
    run.write(home / "nats-token.conf", TOKEN.format(token=settings["token"], **common("nats-token", "_token")))
    run.write(home / "nats-operator.conf", OPERATOR.format(
        **_operator(run, folder), **common("nats-operator", "_operator")))
    run.write(home / "configured", "")


def daemons(run: Run) -> list:
    folder, _ = programs()
    ports = run.settings("nats")["ports"]

    def daemon(name: str, suffix: str) -> Daemon:
        url = f"http://{HOST}:{ports[f'monitor{suffix}']}/healthz"
        return Daemon(run, name, [folder / "nats-server", "-c", run.path("nats", f"{name}.conf")],
                      lambda _: http(url) == 200)

    return [daemon("nats", ""), daemon("nats-token", "_token"), daemon("nats-operator", "_operator")]


def prepare(run: Run) -> str:
    """Gets the programs and makes the configuration; the version."""
    with stage("nats", f"nats-server {SERVER}, nats, nk") as remarks:
        folder, had = programs()
        remarks.append("cached" if had else "built")
    _configure(run, folder)
    return SERVER


def after_start(_run: Run) -> None:
    """Nothing: the users are in the configuration."""


def grant(run: Run, publish: list, subscribe: list) -> None:
    """Gives the user `limited` these subjects and no other; returns once the server knows."""
    _reload_with(run, "limited.conf", lambda _: _rights(publish, subscribe))


def set_password(run: Run, password: str) -> None:
    """Gives the user `limited` another password; returns once the server knows."""
    quoted = json.dumps(password)
    _reload_with(run, "nats.conf", lambda text: re.sub(
        r"user: limited, password: \"[^\"]*\"", lambda _: f"user: limited, password: {quoted}", text))


def _reload_with(run: Run, name: str, change: Callable[[str], str]) -> None:
    """Changes a file of the main server's configuration; returns once the server has read it."""
    if run.settings("nats") is None:
        raise Failure("no nats-server of ours is there")
    server = daemons(run)[0]
    file = run.path("nats", name)
    run.write(file, change(file.read_text(encoding="utf-8")))
    begins = server.log.stat().st_size
    server.signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while not server.said("Reloaded server configuration", begins):
        if time.monotonic() > deadline:
            raise Failure(f"nats did not read its configuration again\n{server.tail()}")
        time.sleep(0.05)


def variables(run: Run) -> dict:
    settings = run.settings("nats")
    ports = settings["ports"]
    folder, _ = programs()
    return {
        "NATS": f"nats://{HOST}:{ports['client']}",
        "NATS_TLS": f"tls://{HOST}:{ports['client']}",
        "NATS_USER": "user",
        "NATS_PASSWORD": settings["user_password"],
        "NATS_LIMITED_USER": "limited",
        "NATS_LIMITED_PASSWORD": settings["limited_password"],
        "NATS_NKEY_FILE": run.path("nats", "user.nk"),
        "NATS_MONITOR": f"http://{HOST}:{ports['monitor']}",
        "NATS_TOKEN_URL": f"nats://{HOST}:{ports['client_token']}",
        "NATS_TOKEN": settings["token"],
        "NATS_OPERATOR_URL": f"nats://{HOST}:{ports['client_operator']}",
        "NATS_CREDS_FILE": run.path("nats", "user.creds"),
        "NATS_CLI": folder / "nats",
        "NK": folder / "nk",
    }
