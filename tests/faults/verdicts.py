"""Each verdict of the harness can strike: made-up runs, each with one thing wrong, and no broker."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import campaign as campaigns
import events
import report
from campaign import Campaign, Tally
from faults import FAULTS
from ledger import Found, Ledger


class Case(unittest.TestCase):
    """With a folder and a ledger."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.ledger = Ledger(self.folder / "ledger")
        self.addCleanup(self._close)
        self.found = Found(self.ledger, self.folder, "run1")

    def _close(self) -> None:
        # A test may have closed it already, or broken it.
        with contextlib.suppress(RuntimeError, ValueError):
            self.ledger.close()

    def acknowledged(self, number: int = 1) -> events.Event:
        event = events.make(7, number, 400)
        self.ledger.will_send(event)
        self.ledger.acknowledge(event)
        return event


class LedgerTest(Case):
    def test_an_fsync_error_is_raised(self) -> None:
        with mock.patch.object(os, "fsync", side_effect=OSError(5, "made up")):
            self.acknowledged()
            self.assertRaisesRegex(RuntimeError, "made up", self.ledger.close)

    def test_what_is_acknowledged_after_an_fsync_error_is_refused(self) -> None:
        with mock.patch.object(os, "fsync", side_effect=OSError(5, "made up")):
            self.acknowledged()
            self.ledger._writer.join(10)
        self.assertRaisesRegex(RuntimeError, "made up", self.acknowledged, 2)


class FoundTest(Case):
    def take(self, event: events.Event, topic: str) -> None:
        self.ledger.close()
        self.found.take(topic, f"7-1.{event.digits}", event.body)

    def test_an_event_under_its_topic_is_found(self) -> None:
        event = self.acknowledged()
        self.take(event, f"run1.{event.action}")
        self.assertEqual((self.found.lost(), self.found.damaged), ([], []))

    def test_an_event_under_another_topic_is_not(self) -> None:
        event = self.acknowledged()
        self.take(event, "run1.unparsed")
        self.assertEqual(len(self.found.lost()), 1)
        self.assertIn(f"expected under run1.{event.action}", self.found.damaged[0]["why"])


class ReportTest(Case):
    """A good run's verdict, and that of runs with one thing wrong."""

    def setUp(self) -> None:
        super().setUp()
        self.event = self.acknowledged()
        self.ledger.close()
        self.found.take(f"run1.{self.event.action}", f"7-1.{self.event.digits}", self.event.body)
        load = SimpleNamespace(outcomes=Counter(stored=1_000), errors=Counter(), slow=0, acknowledged_slow=0)
        every = Counter({name: 2 for name in FAULTS})
        world = SimpleNamespace(inflicted=Counter(every), felt=Counter(every), met=Counter(every))
        options = SimpleNamespace(rate=40.0, faults=list(FAULTS))
        self.run_ = SimpleNamespace(options=options, load=load, world=world, found=self.found, ledger=self.ledger,
                                    tally=Tally(), bridge=SimpleNamespace(starts=1), expected_errors=(), left_out=[],
                                    left_over=[], wrong=[])

    def strikes(self, *phrases: str) -> None:
        told = report.failures(self.run_)
        self.assertEqual(len(told), len(phrases), told)
        for phrase, line in zip(phrases, told):
            self.assertIn(phrase, line)

    def test_a_good_run_passes(self) -> None:
        self.strikes()

    def test_a_request_without_any_answer(self) -> None:
        self.run_.load.outcomes["silent"] = 1
        self.strikes("without any answer")

    def test_connections_refused_or_cut_beyond_what_a_start_costs(self) -> None:
        self.run_.load.outcomes.update(refused=100, cut=20)
        self.strikes()
        self.run_.load.outcomes["cut"] = 21
        self.strikes("refused or cut")

    def test_a_bridge_that_is_not_running_for_long(self) -> None:
        self.run_.load.errors["503 not running"] = 120
        self.strikes()
        self.run_.load.errors["503 waiting: another alma-bridge uses this journal; is a second one running?"] = 1
        self.strikes("not running")

    def test_other_5xx_unless_the_run_is_meant_to_bring_them_about(self) -> None:
        self.run_.load.errors["503 journal full: 5 bytes wait"] = 11
        self.strikes("other answers of 5xx")
        self.run_.expected_errors = ("journal full",)
        self.strikes()

    def test_slow_answers(self) -> None:
        self.run_.load.slow = 11
        self.strikes("within 5 s")

    def test_repeats(self) -> None:
        self.found.times[self.event.digits] = 514
        self.strikes("repeated")

    def test_a_fault_that_was_never_inflicted(self) -> None:
        self.run_.world.inflicted["slow"] = 0
        self.strikes("slow was never inflicted")

    def test_a_fault_that_can_not_be_had_unless_it_was_asked_for_by_name(self) -> None:
        self.run_.world.inflicted["broker_refuses"] = 0
        self.run_.left_out = ["broker_refuses"]
        self.strikes()
        self.run_.options.faults = ["broker_refuses", "slow"]
        self.strikes("broker_refuses was never inflicted")

    def test_a_fault_that_held_nothing_up(self) -> None:
        self.run_.world.felt["half_open"] = 0
        self.strikes("half_open was inflicted 2 times and never held anything up")

    def test_a_fault_that_met_nothing(self) -> None:
        self.run_.world.met["connection_cut"] = 0
        self.strikes("connection_cut was inflicted 2 times and met nothing")


class RecoveryTest(unittest.TestCase):
    def test_a_bridge_that_comes_back_only_by_a_restart_has_not_got_over_it(self) -> None:
        asyncio.run(asyncio.wait_for(self.whole(), 60))

    async def whole(self) -> None:
        """A bridge that confirms nothing since the fault until it is killed, with kills all the time."""
        bridge = SimpleNamespace(starts=1)
        world = SimpleNamespace(bridge_lock=asyncio.Lock())

        async def sink():
            return {"last_confirm": None}

        async def kill(_world) -> None:
            async with world.bridge_lock:
                bridge.starts += 1

        async def half_open(_world) -> None:
            await asyncio.sleep(0.1)

        bridge.sink = sink
        run = Campaign.__new__(Campaign)
        run.options = SimpleNamespace(duration=1.0, kill_every=0.05, seed=1, faults=["half_open", "bridge_sigkill"])
        run.rng = random.Random(1)
        run.bridge, run.world, run.tally = bridge, world, Tally()
        run.place = SimpleNamespace(can_refuse=lambda: True)
        run._under_way, run._timeline = 0, io.StringIO()
        faults = {"half_open": half_open, "bridge_sigkill": kill}
        load = asyncio.create_task(asyncio.sleep(60))
        with mock.patch.dict(campaigns.FAULTS, faults), mock.patch.object(campaigns, "RECOVERY_SECONDS", 0.5), \
                mock.patch.object(campaigns, "PAUSE", (0.1, 0.2)):
            await run._faults(load)
        load.cancel()
        self.assertIn("half_open", run.tally.not_recovered)
        self.assertGreater(bridge.starts, 2, "it was killed beside")


if __name__ == "__main__":
    unittest.main()
