"""Which fault comes when, and what counts."""

import random
import threading
import time
from collections import Counter
from itertools import islice
from typing import Any, cast

from infra.faults.injector import Fault, Injector, deck, lasting_plan
from infra.faults.judge import Violations
from infra.faults.kinds import KINDS
from infra.faults.linked_run import through_links, with_port
from infra.faults.recovery import Recovery
from infra.faults.report import Report
from infra.faults.world import EVERYTHING, Kind, World


def fake_world() -> World:
    return World(cast(Any, None), cast(Any, None), cast(Any, None))


def inject_all(kinds: list[Kind], until: Any, lanes: int = 2) -> list[Fault]:
    world = fake_world()
    injector = Injector(world, kinds, seed=1, seconds=1, say=lambda fault: None, lanes=lanes, pauses=(0, 0.001))
    injector.start()
    deadline = time.monotonic() + 10
    while not until(injector.faults) and time.monotonic() < deadline:
        time.sleep(0.005)
    injector.stop()
    return injector.faults


class TestKinds:
    def test_there_are_many_and_each_has_a_name_of_its_own(self) -> None:
        assert len({kind.name for kind in KINDS}) == len(KINDS)
        assert len([kind for kind in KINDS if not kind.lasting]) >= 50

    def test_every_process_is_killed(self) -> None:
        names = {kind.name for kind in KINDS}
        roles = ("api", "worker", "relay", "postgres", "valkey", "mongo", "supervisor")
        assert {f"kill {role}" for role in roles} <= names


class TestDeck:
    def test_the_first_round_has_every_kind_once(self) -> None:
        kinds = [Kind(str(n), frozenset(), lambda world, chosen: None, weight=3) for n in range(20)]
        first = list(islice(deck(kinds, seed=3), 20))
        assert {kind.name for kind in first} == {kind.name for kind in kinds}

    def test_the_same_seed_deals_the_same(self) -> None:
        assert [kind.name for kind in islice(deck(KINDS, 5), 200)] == [
            kind.name for kind in islice(deck(KINDS, 5), 200)
        ]
        assert [kind.name for kind in islice(deck(KINDS, 5), 50)] != [kind.name for kind in islice(deck(KINDS, 6), 50)]

    def test_later_rounds_follow_the_weights(self) -> None:
        kinds = [Kind("rare", frozenset(), lambda *_: None), Kind("often", frozenset(), lambda *_: None, weight=4)]
        counts = Counter(kind.name for kind in islice(deck(kinds, 1), 2, 52))
        assert counts == {"often": 40, "rare": 10}

    def test_long_outages_are_for_long_runs(self) -> None:
        lasting = [kind for kind in KINDS if kind.lasting]
        assert lasting_plan(lasting, 60) == []
        assert {kind.lasting for _, kind in lasting_plan(lasting, 1500)} == {30.0, 150.0, 300.0}
        assert all(at + kind.lasting < 1500 for at, kind in lasting_plan(lasting, 1500))


class TestInjector:
    def test_what_touches_the_same_is_never_injected_at_once(self) -> None:
        lock, inside, clashes = threading.Lock(), Counter[str](), []

        def make(*touches: str) -> Kind:
            def inject(world: World, chosen: random.Random) -> str | None:
                with lock:
                    alone = EVERYTHING in touches or inside[EVERYTHING]
                    if any(inside[name] for name in touches) or (alone and sum(inside.values())):
                        clashes.append(touches)
                    inside.update(touches)
                time.sleep(0.002)
                with lock:
                    inside.subtract(touches)
                return "yes"

            return Kind(" ".join(touches), frozenset(touches), inject)

        kinds = [make("a"), make("b"), make("a", "b"), make("c"), make(EVERYTHING)]
        # What touches everything waits until all lanes are idle, so how soon it comes is chance; that it comes is not.
        seen_all = lambda faults: len({fault.kind for fault in faults}) == len(kinds)  # noqa: E731
        faults = inject_all(
            kinds, lambda faults: len(faults) > 60 and (seen_all(faults) or len(faults) > 2_000), lanes=4
        )
        assert clashes == []
        assert {fault.kind for fault in faults} == {kind.name for kind in kinds}

    def test_no_effect_and_no_injection_do_not_count(self) -> None:
        def fails(world: World, chosen: random.Random) -> str | None:
            raise OSError("not now")

        kinds = [
            Kind("seen", frozenset(), lambda *_: "seen"),
            Kind("unseen", frozenset(), lambda *_: None),
            Kind("failed", frozenset(), fails),
        ]
        faults = inject_all(kinds, lambda faults: len(faults) >= 6)
        report = Report(1, 1.0, Violations(), faults=faults)
        assert set(report.kinds) == {"seen"}
        assert {fault.error for fault in faults if fault.kind == "failed"} == {"OSError: not now"}
        assert "not counted" in next(fault for fault in faults if fault.kind == "unseen").line()


class TestReport:
    def test_one_violation_fails_it_and_stands_in_it(self) -> None:
        report = Report(7, 60.0, Violations())
        assert report.verdict().startswith("PASSED")
        report.violations.add("25 no acknowledgement lost", "order 1 is gone")
        assert not report.passed
        assert report.verdict().startswith("FAILED: 1 violations")
        assert "25 no acknowledgement lost: order 1 is gone" in report.text()
        assert report.document()["violations"] == [{"rule": "25 no acknowledgement lost", "what": "order 1 is gone"}]

    def test_a_recovery_is_judged_by_its_longest_sample(self) -> None:
        recovery = Recovery("worker kill", 30.0, [1.0, 2.0, 29.0])
        assert (recovery.median, recovery.longest, recovery.is_met) == (2.0, 29.0, True)
        recovery.samples.append(31.0)
        assert not recovery.is_met
        assert "MISSED" in recovery.line()


class TestLinkedRun:
    def test_only_the_port_of_an_address_changes(self) -> None:
        assert (
            with_port("postgresql://role:p%40w@127.0.0.1:5432/db", 6000) == "postgresql://role:p%40w@127.0.0.1:6000/db"
        )
        assert with_port("mongodb://127.0.0.1:27017", 6000) == "mongodb://127.0.0.1:6000"

    def test_services_are_told_the_links_and_all_else_as_it_was(self) -> None:
        direct = {
            name: f"redis://127.0.0.1:{port}/0"
            for port, name in enumerate(
                (
                    "BROKAGE_ORDERS_DATABASE_URL",
                    "BROKAGE_ASSETS_DATABASE_URL",
                    "BROKAGE_CUSTOMERS_DATABASE_URL",
                    "BROKAGE_PROCESSOR_DATABASE_URL",
                    "BROKAGE_REDIS_URL",
                    "BROKAGE_BROKER_URL",
                    "BROKAGE_MONGO_URL",
                ),
                1000,
            )
        }
        ports = dict.fromkeys(("orders", "assets", "customers", "processor", "cache", "broker", "mongo"), 7)
        bent = through_links({**direct, "BROKAGE_KEY_DIR": "keys"}, ports)
        assert bent.pop("BROKAGE_KEY_DIR") == "keys"
        assert set(bent.values()) == {"redis://127.0.0.1:7/0"}
        assert bent.keys() == direct.keys()
