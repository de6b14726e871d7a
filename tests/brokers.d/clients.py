"""Clients that share no code with the bridge, to read back with: kcat, and Python's for each broker."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from common import apt_install, cached, need, stage, tool, Failure

PACKAGES = ["confluent-kafka==2.16.1", "pika==1.4.4", "nats-py[nkeys]==2.16.0", "cloudevents==2.2.0"]
IMPORTS = "import confluent_kafka, pika, nats, nkeys, cloudevents"


def _venv() -> tuple:
    """The folder of a virtual environment with PACKAGES, made if it is not in the cache."""
    def make(folder: Path, final: Path) -> None:
        try:
            tool([sys.executable, "-m", "venv", folder], low=True)
        except Failure:
            if os.geteuid() != 0:
                raise
            # Debian's own Python comes without.
            apt_install("python3-venv")
            tool([sys.executable, "-m", "venv", "--clear", folder], low=True)
        tool([folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
              *PACKAGES], low=True)
        tool([folder / "bin/python", "-c", IMPORTS])

    version = "{}.{}".format(*sys.version_info)
    pins = hashlib.sha256(" ".join([sys.executable, *PACKAGES]).encode()).hexdigest()[:8]
    return cached(f"python-{version}-{pins}", make)


def prepare() -> None:
    with stage("clients", "Python's clients") as remarks:
        _, had = _venv()
        remarks.append("cached" if had else "fetched")
    need("kcat", "kcat")


def variables() -> dict:
    return {"PYTHON": _venv()[0] / "bin/python", "KCAT": need("kcat", "kcat")}
