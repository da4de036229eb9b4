"""Whether the time of a refused sign-in tells if a user exists: 200 interleaved trials of each, at the production costs.

    python -m pytest tests/integration/customer_service/measure_sign_in.py -s

Not part of the suite, which has no timed assertions. Only on a quiet machine do its figures mean anything.
"""

import statistics
import time
from typing import Any

import pytest

from customer_service.passwords import Passwords
from customer_service.settings import Settings
from tests.integration.customer_service.conftest import PASSWORD, Api

TRIALS = 200


def test_medians(api: Api, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"argon2_time_cost": 2, "argon2_memory_kib": 19_456}
    settings = Settings(customers_database_url=api.database_url, **costs)
    monkeypatch.setattr(api.resources, "passwords", Passwords(settings))
    existing = [api.customer().username for _ in range(TRIALS)]
    unknown = [f"{name[:-1]}{'x' if name[-1] != 'x' else 'y'}" for name in existing]
    seconds: dict[str, list[float]] = {"existing": [], "unknown": []}
    for trial in range(TRIALS):
        if trial % 25 == 0:
            api.valkey.flushdb()
        for kind, name in (("existing", existing[trial]), ("unknown", unknown[trial]))[:: 1 if trial % 2 else -1]:
            started = time.perf_counter()
            assert api.sign_in(name, PASSWORD + "!").status_code == 401
            seconds[kind].append(time.perf_counter() - started)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    print({kind: f"{value * 1000:.2f} ms" for kind, value in medians.items()})
    print(f"ratio {medians['existing'] / medians['unknown']:.3f}")
