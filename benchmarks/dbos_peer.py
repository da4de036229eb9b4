"""Peer (b): the saga of an order as a DBOS Transact workflow on the same Postgres, its steps as transactions of a datasource.

`python -m benchmarks.dbos_peer` is the application. DBOS keeps what was done in its own tables, so our saga's own rows are left
out.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from dbos import DBOS, DBOSConfig, SQLAlchemyDatasource
from sqlalchemy import create_engine

from benchmarks import steps

DATABASE_URL = "PEER_DATABASE_URL"
APPLICATION, VERSION, QUEUE = "brokage-peer", "1", "orders"
CONCURRENCY = 16
POLLING_SECONDS = 0.1
WORKFLOW = "order_saga"
READY = "the peer is ready"


def main() -> None:
    """Take workflows from the queue until SIGTERM."""
    url = os.environ[DATABASE_URL]
    datasource = SQLAlchemyDatasource.create(url, engine=create_engine(url, pool_size=CONCURRENCY))
    reserve, confirm, reject, join_book, settle, mark_matched = (
        datasource.transaction(name=step.__name__, isolation_level="READ COMMITTED")(_in_session(datasource, step))
        for step in (
            steps.reserve,
            steps.confirm,
            steps.reject,
            steps.join_book,
            steps.settle,
            steps.mark_matched,
        )
    )
    config: DBOSConfig = {
        "name": APPLICATION,
        "application_version": VERSION,
        "system_database_url": url,
        "sys_db_pool_size": CONCURRENCY,
        "log_level": "WARNING",
    }
    DBOS(config=config)

    @DBOS.workflow(name=WORKFLOW)
    def order_saga(order_id: str) -> None:
        if not reserve(order_id):
            reject(order_id)
            return
        confirm(order_id)
        trade_id = join_book(order_id)
        if trade_id is not None:
            for each in settle(trade_id):
                mark_matched(each, trade_id)

    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=POLLING_SECONDS)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print(READY, flush=True)
    stop.wait()
    DBOS.destroy()


def _in_session(datasource: SQLAlchemyDatasource, step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def run(*arguments: str) -> Any:
        return step(datasource.sql_session(), *arguments)

    return run


if __name__ == "__main__":
    main()
