"""What tests use beside the brokers: clients that share no code with the bridge (kcat, Python's), a false clock, strace."""

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
    need("faketime", "faketime")
    need("strace", "strace")


def _faketime() -> Path:
    """The library that `faketime` loads into a program to give it another clock."""
    need("faketime", "faketime")
    found = sorted(Path("/usr").glob("lib*/**/libfaketime.so.1"))
    if not found:
        raise Failure("libfaketime.so.1 is not there, though faketime is installed")
    return found[0]


def variables() -> dict:
    return {"PYTHON": _venv()[0] / "bin/python", "KCAT": need("kcat", "kcat"), "FAKETIME": _faketime(),
            "STRACE": need("strace", "strace")}
