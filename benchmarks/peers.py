"""The peers as processes: started, held still while a backlog is written, let go, and timed until all of it is matched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from dbos import DBOSClient
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from benchmarks import dbos_peer, steps
from benchmarks.models import Asset, Base, Order, Trade
from infra.bench.population import CASH, INSTRUMENTS
from infra.bench.system import BenchSystem
from infra.runtime.failures import RuntimeFailure

CUSTOMERS = 100
WARM_UP_ORDERS = 40
DONE_SECONDS = 120.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02
_RICH = Decimal(1_000_000_000)


class Peer(ABC):
    """One way to write the saga, in a database of its own; used as a context."""

    name: str

    def __init__(self, system: BenchSystem) -> None:
        self._system = system
        self._database = f"peer_{self.name}"
        with system.connect() as connection:
            connection.execute(f"CREATE DATABASE {self._database}")
        self._engine = create_engine(self._url, pool_size=2)
        Base.metadata.create_all(self._engine)
        with self.session() as session, session.begin():
            session.add_all(
                Asset(customer_id=customer_id, asset_name=name, size=_RICH, usable_size=_RICH)
                for customer_id in range(1, CUSTOMERS + 1)
                for name in (CASH, *INSTRUMENTS)
            )
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    @property
    def _url(self) -> str:
        return self._system.url(self._database).replace("postgresql://", "postgresql+psycopg://", 1)

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The process that works, after `python -m`."""

    @abstractmethod
    def environment(self) -> dict[str, str]: ...

    @abstractmethod
    def enqueue(self, order_ids: Sequence[str]) -> None:
        """Hand accepted orders over, durably where the peer can."""

    def __enter__(self) -> Peer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self.command()],
            cwd=Path(__file__).parents[1],
            env=os.environ | self.environment(),
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # A group of its own, so that what it forks is held with it.
            start_new_session=True,
        )
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self._work_off(self._accept(WARM_UP_ORDERS))
        self._signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
        self._engine.dispose()
        self._output.close()

    def settled_per_second(self, orders: int) -> float:
        """From letting go until every order of a backlog is MATCHED; the process is held again afterwards."""
        ids = self._accept(orders)
        self.enqueue(ids)
        started = time.perf_counter()
        self._signal(signal.SIGCONT)
        self._wait_matched()
        seconds = time.perf_counter() - started
        time.sleep(0.5)  # what it notes after the last step
        self._signal(signal.SIGSTOP)
        return orders / seconds

    def session(self) -> Session:
        return Session(self._engine)

    def _accept(self, orders: int) -> list[str]:
        with self.session() as session, session.begin():
            return [
                steps.accept(
                    session,
                    number % CUSTOMERS + 1,
                    INSTRUMENTS[number // 2 % len(INSTRUMENTS)],
                    "BUY" if number % 2 else "SELL",
                )
                for number in range(orders)
            ]

    def _work_off(self, ids: Sequence[str]) -> None:
        self.enqueue(ids)
        self._wait_matched()

    def _wait_matched(self) -> None:
        deadline = time.monotonic() + DONE_SECONDS
        with self.session() as session:
            while session.scalar(select(func.count()).where(Order.status != "MATCHED")):
                session.commit()
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeFailure(f"{self.name} did not match its orders:\n{self._said()}")
                time.sleep(POLL_SECONDS)
            unsettled = session.scalar(select(func.count()).where(Trade.status != "SETTLED"))
            assert not unsettled, f"{self.name}: {unsettled} trades are not settled"

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-4000:]

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


class Dramatiq(Peer):
    """Two processes of eight threads, as its command line does on two cores."""

    name = "dramatiq"

    def command(self) -> Sequence[str]:
        return ("dramatiq", "benchmarks.dramatiq_peer", "--processes", "2", "--threads", "8")

    def environment(self) -> dict[str, str]:
        return {"PEER_DATABASE_URL": self._url, "PEER_BROKER_URL": self._system.environment["BROKAGE_BROKER_URL"]}

    def enqueue(self, order_ids: Sequence[str]) -> None:
        os.environ.update(self.environment())
        from benchmarks.dramatiq_peer import reserve

        for order_id in order_ids:
            reserve.send(order_id)


class Dbos(Peer):
    """One application process, its queue worked by 16 threads."""

    name = "dbos"

    def command(self) -> Sequence[str]:
        return ("benchmarks.dbos_peer",)

    def environment(self) -> dict[str, str]:
        return {"PEER_DATABASE_URL": self._url}

    def _start(self) -> None:
        # The client finds the tables that the application makes at its start.
        deadline = time.monotonic() + DONE_SECONDS
        while not self._is_launched():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeFailure(f"{self.name} did not start:\n{self._said()}")
            time.sleep(POLL_SECONDS)
        self._client = DBOSClient(system_database_url=self._url)
        super()._start()

    def _is_launched(self) -> bool:
        self._output.seek(0)
        return dbos_peer.READY.encode() in self._output.read()

    def enqueue(self, order_ids: Sequence[str]) -> None:
        for order_id in order_ids:
            self._client.enqueue(
                {
                    "workflow_name": dbos_peer.WORKFLOW,
                    "queue_name": dbos_peer.QUEUE,
                    "app_version": dbos_peer.VERSION,
                    "application_name": dbos_peer.APPLICATION,
                },
                order_id,
            )
