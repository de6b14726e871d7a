"""The table of a run, and whether it went well."""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import time
from pathlib import Path

from campaign import Campaign
from faults import FAULTS

REPOSITORY = Path(__file__).resolve().parents[2]
# A fault of these that holds nothing up was none.
MUST_BITE = ("broker_sigstop", "half_open", "broker_refuses", "rights_revoked", "credentials_changed")
# A fault of these that met no process, no connection and no traffic was none.
MUST_MEET = ("bridge_sigkill", "broker_sigkill", "connection_cut", "reset", "half_open", "slow")
# Each start of the bridge may cost so many seconds' worth of requests: refused or cut, and again answered 503 while the
# bridge opens its journal (`not running`) or waits until the process before it lets go of the journal (`waiting`).
START_SECONDS = 3.0
STARTING = ("not running", "another alma-bridge uses this journal")
# Of all requests, how many may get another 5xx or no answer within 5 s: a machine that does much else stalls too.
ERROR_SHARE = 0.01
# Repeats may be this share of the events that were found, and the largest window: what a broker had taken and the bridge
# could not know.
REPEATED_SHARE = 0.1
WINDOW = 512


def excesses(campaign: Campaign) -> list:
    """What may be, but not so often."""
    load, found = campaign.load, campaign.found
    outage = campaign.options.rate * START_SECONDS * campaign.bridge.starts
    few = ERROR_SHARE * sum(load.outcomes.values())
    not_running = sum(count for text, count in load.errors.items() if any(why in text for why in STARTING))
    expected = (*STARTING, *campaign.expected_errors)
    other = sum(count for text, count in load.errors.items()
                if text.startswith("5") and not any(part in text for part in expected))
    counts = [
        ("requests refused or cut", load.outcomes["refused"] + load.outcomes["cut"], outage),
        ("answers of 503 `not running`", not_running, outage),
        ("other answers of 5xx", other, few),
        ("requests not answered within 5 s", load.slow, few),
        ("repeated messages", found.repeated, REPEATED_SHARE * len(found.times) + WINDOW),
    ]
    return [f"{count} {what}, at most {most:.0f} may be" for what, count, most in counts if count > most]


def idle_faults(campaign: Campaign) -> list:
    """Faults that were asked for and did nothing."""
    world, told = campaign.world, []
    for name in campaign.options.faults:
        count = world.inflicted[name]
        if not count:
            # One that can't be had here is left out of a run of all, but not where it was asked for by name.
            if name not in campaign.left_out or campaign.options.faults != list(FAULTS):
                told.append(f"{name} was never inflicted")
        elif name in MUST_BITE and not world.felt[name]:
            told.append(f"{name} was inflicted {count} times and never held anything up")
        elif name in MUST_MEET and not world.met[name]:
            told.append(f"{name} was inflicted {count} times and met nothing")
    return told


def failures(campaign: Campaign) -> list:
    """What must not be, one phrase each; empty where the promise was kept."""
    load, found, tally = campaign.load, campaign.found, campaign.tally
    counts = {
        "acknowledged events lost": len(found.lost()),
        "events damaged": len(found.damaged),
        "requests acknowledged after more than Alma's 5 s": load.acknowledged_slow,
        "good events answered with a 4xx": load.outcomes["rejected"],
        "requests without any answer": load.outcomes["silent"],
        "faults not got over": len(tally.not_recovered),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    if not campaign.ledger.acknowledged:
        told.append("no event was acknowledged: nothing was tried")
    told += excesses(campaign) + idle_faults(campaign)
    return told + campaign.wrong + [f"left over: {what}" for what in campaign.left_over]


def provenance(binary: Path) -> str:
    """When, of what commit and with which binary."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short=7", "HEAD") or "unknown"
    changes = " with uncommitted changes" if git("status", "--porcelain") else ""
    name = binary.relative_to(REPOSITORY) if binary.is_relative_to(REPOSITORY) else binary.name
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()[:16]
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"on {day} of commit `{commit}`{changes}, with `{name}` (SHA-256 {digest}…)"


def _seconds(values: list) -> str:
    if not values:
        return "-"
    return f"median {statistics.median(values):.2f} s, worst {max(values):.2f} s ({len(values)})"


def table(campaign: Campaign) -> str:
    """Markdown, so that a long run's can be put into the documents as it is."""
    options, load, found, tally = campaign.options, campaign.load, campaign.found, campaign.tally
    inflicted = campaign.world.inflicted
    acknowledged = campaign.ledger.acknowledged
    brokers = [value for name, values in tally.recoveries.items() if name != "bridge_sigkill" for value in values]
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(load.outcomes.items())) or "none"
    rows = [
        ("measured", provenance(options.binary)),
        ("broker, format", f"{options.broker}, {options.format}"),
        ("seed, duration", f"{options.seed}, {options.duration:.0f} s"),
        ("load", f"{options.rate:g}/s, {len(campaign.ledger.sent)} events; worst {load.behind:.2f} s behind, "
                 f"{load.left_out} left out"),
        ("requests", outcomes),
        ("errors answered", "; ".join(f"{count} {text}" for text, count in load.errors.most_common()) or "none"),
        ("bridge killed", inflicted["bridge_sigkill"]),
        ("other faults", sum(count for name, count in inflicted.items() if name != "bridge_sigkill")),
        ("events acknowledged", f"{len(acknowledged)}, {load.bytes / (1 << 20):.0f} MiB"),
        ("events found", len(found.times)),
        ("of them never acknowledged", sum(digits not in acknowledged for digits in found.times)),
        ("**lost**", len(found.lost())),
        ("**damaged**", len(found.damaged)),
        ("repeated", found.repeated),
        ("not answered within 5 s", load.slow),
        ("acknowledged after 5 s", load.acknowledged_slow),
        ("slowest acknowledgement", f"{load.slowest:.2f} s"),
        ("next confirm after the broker's return", _seconds(brokers)),
        ("next confirm after the bridge's start", _seconds(tally.recoveries.get("bridge_sigkill", []))),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), "",
             "| fault | times | seen to hold up delivery | until the next confirm |", "|---|---|---|---|"]
    felt = campaign.world.felt
    lines += [f"| {name} | {count} | {felt.get(name, '-')} | {_seconds(tally.recoveries.get(name, []))} |"
              for name, count in sorted(inflicted.items())]
    return "\n".join(lines)
