"""RabbitMQ with management: Debian's packages of a newer suite, unpacked into a folder of the cache.

The host is not touched: RabbitMQ 4, Erlang, libc and the libraries are resolved and fetched by an apt with
a state of its own, unpacked side by side, and every program there is started through that libc's own loader.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

import certs
from common import HOST, Daemon, Failure, Run, cached, check_stop, free_ports, http, need, say, stage, tool
from debian import isolated

# The first Debian suite with RabbitMQ 4. The host's own suite is tried where this one cannot be had.
SUITE = "trixie"
# Of what RabbitMQ depends on, this much is needed to run it; the rest is there to install it.
WANTED = re.compile(r"rabbitmq-server|erlang-.*|zlib1g|lib(?!python|pam|.*-common$).*")

CONFIG = """
listeners.tcp.1 = {host}:{amqp}
listeners.ssl.1 = {host}:{amqps}
ssl_options.cacertfile = {certs}/ca.pem
ssl_options.certfile = {certs}/server.pem
ssl_options.keyfile = {certs}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
ssl_cert_login_from = common_name

management.tcp.ip = {host}
management.tcp.port = {api}

default_vhost = /
default_user = admin
default_pass = {admin_password}
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.write = .*
default_permissions.read = .*

disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
log.console = true
log.console.level = info
log.file = false
"""


# ---------------------------------------------------------------- the unpacked packages

def _mirror(folder: Path) -> tuple:
    """(address of the machine's mirror, the machine's suite), from its own apt configuration."""
    def targets(options: list) -> list:
        listed = tool([need("apt-get"), *options, "indextargets", "--format",
                       "$(ORIGIN) $(LABEL) $(REPO_URI) $(CODENAME)", "Created-By: Packages", "Component: main"])
        rows = [line.split() for line in listed.splitlines()]
        # Not those of others, and neither -security nor -updates nor -backports.
        return [(row[2], row[3]) for row in rows
                if len(row) == 4 and row[0] == row[1] and row[0] in ("Debian", "Ubuntu") and "-" not in row[3]]

    found = targets([])
    if not found:
        # A machine that never fetched its lists can name none.
        options = isolated(folder)
        tool(["apt-get", "-qq", *options, "update"], low=True)
        found = targets(options)
    if not found:
        raise Failure("`apt-get indextargets` names no mirror of Debian's packages")
    return found[0]


class _Apt:
    """An apt that knows one suite and no installed package, with all its files under one folder."""

    def __init__(self, folder: Path, address: str, suite: str) -> None:
        self.debs = folder / "debs"
        self.debs.mkdir(parents=True)
        sources = folder / "sources.list"
        sources.write_text(f"deb {address} {suite} main\n", encoding="utf-8")
        self.options = isolated(folder)
        for name, value in (("sourcelist", sources), ("sourceparts", "/dev/null"), ("preferences", "/dev/null"),
                            ("preferencesparts", "/dev/null")):
            self.options += ["-o", f"Dir::Etc::{name}={value}"]

    def get(self, *arguments: str) -> str:
        return tool(["apt-get", "-qq", *self.options, *arguments], cwd=self.debs, low=True)

    def unpack(self, tree: Path) -> None:
        """Fetches rabbitmq-server and what it needs to run, and unpacks all of it into `tree`."""
        self.get("update")
        listed = self.get("--print-uris", "install", "rabbitmq-server")
        files = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
        names = [name for name in (file.partition("_")[0] for file in files) if WANTED.fullmatch(name)]
        self.get("download", *names)
        for package in sorted(self.debs.glob("*.deb")):
            tool(["dpkg-deb", "-x", package, tree], low=True)


def _settle(tree: Path, final: Path) -> None:
    """Makes the programs in `tree` run from `final` with the libraries there."""
    # Since trixie all of it is in /usr; before, a package may have its part in /lib.
    roots = [root for root in (tree / "usr", tree) for root in sorted(root.glob("lib*")) if not root.is_symlink()]
    loaders = [file for root in roots for file in sorted(root.rglob("ld-linux*.so.*")) if not file.is_symlink()]
    if not loaders:
        raise Failure("the unpacked packages hold no ld-linux")
    loader = loaders[0]
    folders = sorted({file.parent for root in roots for file in root.glob("*-linux-gnu*/lib*.so*")})

    def there(path: Path) -> str:
        return str(final / path.relative_to(tree))

    libraries = ":".join(there(folder) for folder in folders)
    erlang = tree / "usr/lib/erlang"
    for file in sorted(erlang.rglob("*")):
        if file.is_symlink() or not file.is_file() or not os.access(file, os.X_OK):
            continue
        with open(file, "rb") as opened:
            begins = opened.read(4)
        if begins == b"\x7fELF" and ".so" not in file.name:
            real = file.with_name(file.name + ".elf")
            file.rename(real)
            file.write_text("#!/bin/sh\nexec {} --library-path {} --argv0 \"$0\" {} \"$@\"\n".format(
                *(shlex.quote(part) for part in (there(loader), libraries, there(real)))), encoding="utf-8")
            file.chmod(0o755)
        elif begins.startswith(b"#!"):
            # `erl` and its like hold Erlang's root as text.
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("=/usr/lib/erlang", f"={shlex.quote(there(erlang))}"), encoding="utf-8")


def _version(tree: Path) -> str:
    found = sorted(tree.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"))
    if not found:
        raise Failure("the unpacked packages hold no RabbitMQ")
    return found[-1].name.partition("-")[2]


def tree() -> tuple:
    """(folder with the unpacked packages, was it in the cache)."""
    def make_from(suite: Optional[str]):
        def make(folder: Path, final: Path) -> None:
            with tempfile.TemporaryDirectory() as apart:
                address, host = _mirror(Path(apart, "host"))
                _Apt(Path(apart, suite or host), address, suite or host).unpack(folder)
            _settle(folder, final)
            _version(folder)
        return make

    try:
        return cached(f"rabbitmq-{SUITE}", make_from(SUITE))
    except Failure as first:
        check_stop()
        say(f"rabbitmq  cannot be had from {SUITE}, the host's own suite is tried: {first}")
        return cached("rabbitmq-host", make_from(None))


# ---------------------------------------------------------------- the server

def _settings() -> dict:
    return {
        "ports": free_ports(["amqp", "amqps", "api", "dist", "epmd"]),
        "admin_password": secrets.token_hex(12),
        "limited_password": secrets.token_hex(12),
    }


def _environment(run: Run, folder: Path, ports: dict) -> dict:
    home = run.path("rabbitmq")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    return dict(
        keep,
        PATH=f"{folder}/usr/lib/erlang/bin:{os.environ.get('PATH', '/usr/bin:/bin')}",
        HOME=str(home / "home"),
        # The start script then becomes Erlang instead of waiting for it: the pid is the broker's.
        RUNNING_UNDER_SYSTEMD="true",
        # A name with a full host name needs a resolver; `localhost` needs none.
        RABBITMQ_NODENAME=f"alma-{ports['amqp']}@localhost",
        RABBITMQ_CONF_ENV_FILE="/nonexistent",
        RABBITMQ_CONFIG_FILE=str(home / "rabbitmq.conf"),
        RABBITMQ_CONFIG_FILES="/nonexistent",
        RABBITMQ_ADVANCED_CONFIG_FILE="/nonexistent",
        RABBITMQ_ENABLED_PLUGINS_FILE=str(home / "enabled_plugins"),
        RABBITMQ_MNESIA_BASE=str(home / "data"),
        RABBITMQ_LOG_BASE=str(home / "log"),
        RABBITMQ_FEATURE_FLAGS_FILE=str(home / "feature_flags"),
        RABBITMQ_PID_FILE=str(home / "pid"),
        RABBITMQ_DIST_PORT=str(ports["dist"]),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        ERL_EPMD_PORT=str(ports["epmd"]),
        ERL_EPMD_ADDRESS=HOST,
        ERL_CRASH_DUMP_BYTES="0",
        LC_ALL="C.UTF-8",
    )


def _chosen(run: Run) -> Path:
    """The folder with the packages that this run uses; its data may suit no other version."""
    return Path(run.path("rabbitmq", "tree").read_text(encoding="utf-8"))


def _choose(run: Run) -> str:
    """Settles which packages this run uses, the first time; where they come from."""
    note = run.path("rabbitmq", "tree")
    if note.exists() and _chosen(run).is_dir():
        return "cached"
    folder, had = tree()
    run.write(note, str(folder))
    return "cached" if had else "fetched"


def _configure(run: Run) -> None:
    home = run.path("rabbitmq")
    if (home / "rabbitmq.conf").exists():
        return
    settings = run.settings("rabbitmq", _settings)
    for part in ("home", "data", "log"):
        (home / part).mkdir(parents=True, exist_ok=True)
    run.write(home / "enabled_plugins", "[rabbitmq_management,rabbitmq_auth_mechanism_ssl].\n")
    run.write(home / "rabbitmq.conf", CONFIG.format(
        host=HOST, certs=run.path("certs"), admin_password=settings["admin_password"], **settings["ports"]))


def _api(settings: dict, path: str, method: str = "GET", body: Optional[dict] = None) -> int:
    login = base64.b64encode(f"admin:{settings['admin_password']}".encode()).decode("ascii")
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    return http(f"http://{HOST}:{settings['ports']['api']}/api/{path}", headers=headers, method=method, body=data)


def daemons(run: Run) -> list:
    """Erlang's name server first, then the broker."""
    settings = run.settings("rabbitmq")
    folder = _chosen(run)
    ports = settings["ports"]
    env = _environment(run, folder, ports)

    def ready(_begins: int) -> bool:
        return all(_api(settings, f"health/checks/port-listener/{ports[name]}") == 200
                   for name in ("amqp", "amqps"))

    epmd = Daemon(run, "rabbitmq-epmd", [folder / "usr/lib/erlang/bin/epmd", "-address", HOST,
                                         "-port", str(ports["epmd"])], lambda _: True, env)
    server = next(folder.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    return [epmd, Daemon(run, "rabbitmq", [server], ready, env)]


def prepare(run: Run) -> str:
    """Gets the packages and makes the configuration; the version."""
    with stage("rabbitmq", "RabbitMQ and Erlang") as remarks:
        origin = _choose(run)
        version = _version(_chosen(run))
        remarks += [version, origin]
        _configure(run)
    return version


def after_start(run: Run) -> None:
    """Makes the users, once: a later start must not undo what a test changed."""
    done = run.path("rabbitmq", "users-made")
    if done.exists():
        return
    settings = run.settings("rabbitmq")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    nothing = {"configure": "^$", "write": "^$", "read": "^$"}
    users = [
        # What a client takes that was given no user.
        ("guest", {"password": "guest", "tags": ""}, everything),
        # Logs in by its certificate alone.
        (certs.CLIENT, {"password_hash": "", "tags": ""}, everything),
        ("limited", {"password": settings["limited_password"], "tags": ""}, nothing),
    ]
    for name, user, rights in users:
        for path, body in ((f"users/{name}", user), (f"permissions/%2f/{name}", rights)):
            status = _api(settings, path, "PUT", body)
            if status not in (201, 204):
                raise Failure(f"rabbitmq answered {status} to PUT /api/{path}")
    run.write(done, "")


def run_ctl(run: Run, arguments: list) -> int:
    """Runs `rabbitmqctl` against the broker; its exit code."""
    settings = run.settings("rabbitmq")
    if settings is None:
        raise Failure("no rabbitmq of ours is there")
    folder = _chosen(run)
    program = next(folder.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmqctl"))
    environment = _environment(run, folder, settings["ports"])
    try:
        return subprocess.run([program, *arguments], check=False, env=environment).returncode
    except OSError as error:
        raise Failure(f"cannot run {program}: {error}") from error


def variables(run: Run) -> dict:
    settings = run.settings("rabbitmq")
    ports = settings["ports"]
    return {
        "RABBITMQ": f"amqp://{HOST}:{ports['amqp']}/%2f",
        "RABBITMQ_TLS": f"amqps://{HOST}:{ports['amqps']}/%2f",
        "RABBITMQ_API": f"http://{HOST}:{ports['api']}",
        "RABBITMQ_ADMIN_USER": "admin",
        "RABBITMQ_ADMIN_PASSWORD": settings["admin_password"],
        "RABBITMQ_LIMITED_USER": "limited",
        "RABBITMQ_LIMITED_PASSWORD": settings["limited_password"],
    }
