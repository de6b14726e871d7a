"""The fault harness: the real bridge and a real broker under load and faults; nothing that was acknowledged is lost.

    tests/brokers run --only kafka tests/faults/run --broker kafka --seed 7 --duration 180s

It prints a table and exits with 1 if the promise was broken, if errors or repeats exceeded their bounds, or if a fault
that was asked for did nothing: docs/faults.md has the whole list. It then keeps journal, logs, ledger and seed in a
folder that it names. From 20 minutes on faults have their whole lengths, and topics that an
operator must mend a grace of a minute; in a shorter run it is 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import places.base
import report
import two_sinks
from campaign import Campaign, Options, say
from faults import FAULTS
from places import PLACES

# From here on a run is a long one.
LONG_SECONDS = 1_200
SHORT_LENGTH = 3.0
REPOSITORY = Path(__file__).resolve().parents[2]


def seconds(text: str) -> float:
    """Of `90s`, `30m` or `2h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected a time such as 180s or 30m, found `{text}`")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3_600}[found[2]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/faults/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True, choices=sorted(PLACES))
    parser.add_argument("--seed", type=int, help="default: a random one, which the table names")
    parser.add_argument("--duration", type=seconds, default=60.0, help="of the faults; default 60s")
    parser.add_argument("--bridge", type=Path, default=REPOSITORY / "target/debug/alma-bridge", metavar="BINARY")
    parser.add_argument("--fault", action="append", choices=[*FAULTS, two_sinks.NAME], metavar="NAME",
                        help=f"only this one, may be given again: {', '.join([*FAULTS, two_sinks.NAME])}; default all "
                             "but the last, which is a run of its own")
    parser.add_argument("--rate", type=float, default=40.0, help="events a second; default 40")
    parser.add_argument("--kill-every", type=seconds, default=None, metavar="TIME",
                        help="mean time between kills of the bridge beside the other faults; default 5s, none with "
                             "--fault")
    parser.add_argument("--longest", type=seconds, metavar="TIME",
                        help="no fault lasts longer; default 3s where the duration is under 20m")
    parser.add_argument("--format", choices=["cloudevents", "cloudevents-binary"], help="default: the seed's choice")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "alma-bridge-faults",
                        metavar="FOLDER", help="where a failed run's evidence goes; default %(default)s")
    args = parser.parse_args()
    if two_sinks.NAME in (args.fault or []) and len(args.fault) > 1:
        parser.error(f"{two_sinks.NAME} is a run of its own")
    return args


def options(args: argparse.Namespace) -> Options:
    seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    kill_every = args.kill_every if args.kill_every is not None else 0.0 if args.fault else 5.0
    chosen = args.format or random.Random(f"{seed}/format").choice(["cloudevents", "cloudevents-binary"])
    is_long = args.duration >= LONG_SECONDS
    longest = args.longest or (float("inf") if is_long else SHORT_LENGTH)
    return Options(args.broker, seed, args.duration, args.bridge.resolve(), args.fault or list(FAULTS), args.rate,
                   kill_every, longest, "1m" if is_long else "5s", chosen, args.keep)


async def whole(campaign: Campaign) -> None:
    # `tests/brokers` passes it on; what was started is ended all the same.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    try:
        await campaign.run()
    finally:
        await campaign.close()


def main() -> int:
    chosen = options(arguments())
    folder = Path(tempfile.mkdtemp(prefix=f"{chosen.broker}-{chosen.seed}-"))
    campaign = (two_sinks.TwoSinks if two_sinks.NAME in chosen.faults else Campaign)(chosen, folder)
    say(f"{chosen.broker}, seed {chosen.seed}, {chosen.duration:.0f} s, {chosen.format}, in {folder}")
    logs = places.base.RUN.path("logs")
    try:
        try:
            asyncio.run(whole(campaign))
        except BaseException:
            # What broke it is raised below.
            with contextlib.suppress(RuntimeError):
                campaign.ledger.close()
            campaign.keep_evidence(logs)
            raise
        print(report.table(campaign), flush=True)
        wrong = report.failures(campaign)
        for what in wrong:
            say(what)
        if wrong:
            campaign.keep_evidence(logs)
        return 1 if wrong else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
