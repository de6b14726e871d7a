"""The table of a run, and whether it went well."""

from __future__ import annotations

import statistics

from campaign import Campaign

# A fault of these that holds nothing up was none.
MUST_BITE = ("broker_sigstop", "half_open", "broker_refuses", "rights_revoked", "credentials_changed")


def failures(campaign: Campaign) -> list:
    """What must not be, one phrase each; empty where the promise was kept."""
    load, found, tally, inflicted = campaign.load, campaign.found, campaign.tally, campaign.world.inflicted
    counts = {
        "acknowledged events lost": len(found.lost()),
        "events damaged": len(found.damaged),
        "requests acknowledged after more than Alma's 5 s": load.acknowledged_slow,
        "good events answered with a 4xx": load.outcomes["rejected"],
        "faults not got over": len(tally.not_recovered),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    if not campaign.ledger.acknowledged:
        told.append("no event was acknowledged: nothing was tried")
    told += [f"{name} was inflicted {inflicted[name]} times and never held anything up"
             for name in MUST_BITE if inflicted[name] and not campaign.world.felt[name]]
    return told + campaign.wrong + [f"left over: {what}" for what in campaign.left_over]


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
