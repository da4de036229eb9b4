"""`brokage audit verify`, as a process of its own over a real document server."""

import json
import os
import subprocess
import sys
from typing import Any

from auditor.documents import LOGS, NAME
from auditor.service import Auditor
from auditor.writer import ChainWriter
from shared.contracts.orders import OrderConfirmed
from shared.mongo import MongoDatabase
from shared.testing.messages import create_order_event
from shared.testing.servers import LocalMongo


def run(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra", "audit", "verify", *options]
    environment = {**os.environ, "BROKAGE_MONGO_URL": url}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_says_whether_the_trail_is_valid_and_names_the_first_bad_record(tmp_path: Any) -> None:
    server = LocalMongo(tmp_path / "data.sqlite")
    database = MongoDatabase(server.url, NAME)
    try:
        Auditor(database, ChainWriter(database)).handle([create_order_event(OrderConfirmed) for _ in range(5)])
        good = run(server.url)
        assert (good.returncode, good.stderr) == (0, "")
        assert good.stdout.startswith("the audit trail is valid: 5 records, head ")
        database[LOGS].update_one({"seq": 3}, {"$set": {"role": "NOBODY"}})
        bad = run(server.url)
        assert bad.returncode == 1
        assert bad.stdout == "the audit trail is NOT valid: record 3 is the first bad one (changed)\n"
        found = json.loads(run(server.url, "--json").stdout)
        assert (found["valid"], found["first_bad"]) == (False, {"seq": 3, "reason": "changed"})
    finally:
        database.close()
        server.stop()


def test_a_database_that_is_away_is_said_in_one_line() -> None:
    answer = run("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "brokage: the audit trail's database does not answer\n"
