"""Publishes and reads back at every listener and login, and through kill -9, with clients of others.

Run by `tests/brokers selftest [--only LIST]`, under the Python that has the clients.
"""

from __future__ import annotations

import sys

import self_kafka
import self_nats
import self_rabbitmq
from checks import Checks

KINDS = {"kafka": self_kafka, "rabbitmq": self_rabbitmq, "nats": self_nats}


def main(names: list) -> int:
    checks = Checks()
    for name in names:
        with checks.check(f"{name}: all of it was tried"):
            KINDS[name].run(checks)
    print(f"{checks.passed} passed, {checks.failed} failed", flush=True)
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
