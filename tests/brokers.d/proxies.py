"""nginx, HAProxy and Caddy: the packages of the machine's own Debian suite, unpacked into a folder of the cache.

Nothing is installed, so no package's script starts a service. The tests start the programs themselves.
"""

from __future__ import annotations

import platform
import shlex
import tempfile
from pathlib import Path

from common import Failure, cached, need, stage, tool
from debian import isolated

PROGRAMS = {"nginx": "usr/sbin/nginx", "haproxy": "usr/sbin/haproxy", "caddy": "usr/bin/caddy"}


def _fetch(folder: Path) -> None:
    """Unpacks the proxies, and the libraries of theirs that the machine does not have, into `folder`."""
    with tempfile.TemporaryDirectory() as apart:
        # Lists of its own, but the machine's record of what is installed: its libraries are used.
        apt = ["apt-get", "-qq", *isolated(Path(apart)), "-o", "Dir::State::status=/var/lib/dpkg/status"]
        tool([need("apt-get"), *apt[1:], "update"], low=True)
        listed = tool([*apt, "--print-uris", "--no-remove", "install", *PROGRAMS])
        files = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
        # A proxy that the machine has already is not listed.
        tool([*apt, "download", *sorted({file.partition("_")[0] for file in files} | set(PROGRAMS))],
             cwd=Path(apart), low=True)
        for package in sorted(Path(apart).glob("*.deb")):
            tool(["dpkg-deb", "-x", package, folder], low=True)


def _wrap(folder: Path, final: Path) -> None:
    """Makes `folder/NAME`, which becomes the program NAME with the libraries unpacked beside it."""
    libraries = {final / file.parent.relative_to(folder) for file in folder.glob("**/*-linux-gnu*/lib*.so*")}
    path = shlex.quote(":".join(str(library) for library in sorted(libraries)))
    for name, program in PROGRAMS.items():
        if not (folder / program).is_file():
            raise Failure(f"Debian's package {name} holds no {program}")
        script = folder / name
        script.write_text(f"#!/bin/sh\nLD_LIBRARY_PATH={path} exec {shlex.quote(str(final / program))} \"$@\"\n",
                          encoding="utf-8")
        script.chmod(0o755)


def _folder() -> tuple:
    """(folder with the proxies, was it in the cache)."""
    def make(folder: Path, final: Path) -> None:
        _fetch(folder)
        _wrap(folder, final)

    release = platform.freedesktop_os_release()
    return cached(f"proxies-{release.get('VERSION_CODENAME', release['ID'])}", make)


def prepare() -> None:
    with stage("proxies", ", ".join(PROGRAMS)) as remarks:
        _, had = _folder()
        remarks.append("cached" if had else "fetched")


def variables() -> dict:
    folder, _ = _folder()
    return {name.upper(): folder / name for name in PROGRAMS}
