"""The house rules, each with its reason. A rule that is broken on purpose is changed here, in the same commit."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("asset_service", "auditor", "customer_service", "notifier", "order_service", "processor")
POSTGRES_SERVICES = ("asset_service", "customer_service", "order_service", "processor")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another(service: str) -> None:
    """A service must run with the other packages deleted; what two share is in shared/."""
    foreign = {*SERVICES, "infra", "tests"} - {service}
    found = [
        f"{path}: {name}" for path in python_files(service) for name in imports(path) if name.split(".")[0] in foreign
    ]
    assert found == []


def test_shared_imports_no_service() -> None:
    """Shared code knows no business: imports run from the services to shared, never back."""
    foreign = {*SERVICES, "infra", "tests"}
    found = [
        f"{path}: {name}"
        for path in python_files("shared")
        if "testing" not in path.parts
        for name in imports(path)
        if name.split(".")[0] in foreign
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("repository.py", ("service", "endpoints", "tasks", "app", "worker", "relay")),
        ("service", ("endpoints", "tasks", "app", "worker", "relay")),
        ("tasks.py", ("endpoints", "app", "worker", "relay")),
        ("states.py", ("models", "repository", "service", "endpoints", "tasks", "app", "worker", "relay")),
        ("models.py", ("repository", "service", "endpoints", "tasks", "app", "worker", "relay")),
        ("transitions.py", ("repository", "service", "endpoints", "tasks", "app", "worker", "relay")),
    ],
)
def test_imports_run_one_way(module: str, forbidden: tuple[str, ...]) -> None:
    """endpoint -> service -> repository -> tables, and never back."""
    found = []
    for service in SERVICES:
        place = ROOT / service / module
        files = [place] if place.is_file() else sorted(place.rglob("*.py")) if place.is_dir() else []
        for path in files:
            for name in imports(path):
                parts = name.split(".")
                if parts[0] == service and len(parts) > 1 and parts[1] in forbidden:
                    found.append(f"{path}: {name}")
    assert found == []


_TABLES = frozenset({"sqlalchemy", "alembic"})
_SERVER = frozenset({"fastapi", "starlette", "uvicorn"})


@pytest.mark.parametrize(
    ("role", "idle"), [("app", _TABLES), ("worker", _TABLES | _SERVER), ("relay", _TABLES | _SERVER)]
)
def test_a_process_loads_only_what_it_calls(role: str, idle: frozenset[str]) -> None:
    """No tables but for migrations, no server where nobody is served: that was half of a relay's start, a quarter of its memory."""
    script = f"""
import importlib, sys
for service in {[service for service in SERVICES if (ROOT / service / f"{role}.py").is_file()]!r}:
    importlib.import_module(f"{{service}}.{role}")
print(sorted(set({sorted(idle)!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nobody_commits_but_the_unit_of_work() -> None:
    """One request or batch is one transaction, committed at its edge; a commit in between could be half an effect."""
    found = [
        f"{path}:{line}"
        for path in python_files(*POSTGRES_SERVICES)
        for name, line in calls(path)
        if name.endswith((".commit", ".rollback"))
    ]
    assert found == []


def test_nothing_is_sent_to_the_broker_but_by_relay_and_inbox() -> None:
    """What a use case says goes through the outbox: sending after commit loses it, before commit invents it."""
    found = [
        f"{path}: {name}"
        for path in python_files(*SERVICES)
        for name in imports(path)
        if name.split(".")[0] == "dramatiq"
    ]
    assert found == []


def test_money_is_never_a_float() -> None:
    """0.1 + 0.2; amounts are Decimal, and only shared/money.py rounds."""
    money_words = re.compile(r"\b(amount|price|size|notional|fee|balance)\w*\s*:\s*float\b")
    found = [
        f"{path}:{number}"
        for path in python_files(*SERVICES, "shared")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if money_words.search(line)
    ]
    assert found == []
    rounding = [
        f"{path}:{line}"
        for path in python_files(*SERVICES)
        for name, line in calls(path)
        if name.endswith(".quantize") or name == "round"
    ]
    assert rounding == []


def test_no_naive_time() -> None:
    """Every moment is aware UTC; `datetime.utcnow()` and `datetime.now()` without a zone are neither."""
    found = [
        f"{path}:{line}"
        for path in python_files(*SERVICES, "shared", "infra")
        for name, line in calls(path)
        if name.endswith("utcnow")
    ]
    assert found == []


def test_business_statements_use_the_movable_clock() -> None:
    """Tests move time by `brokage_now()`; a bare now() in a statement would not move with it."""
    bare = re.compile(r"(?<!brokage_)\b(now\(\)|current_timestamp|clock_timestamp\(\))", re.IGNORECASE)
    found = []
    for path in python_files(*POSTGRES_SERVICES, "shared"):
        if path.name == "migrations.py" or "migrations" in path.parts or "clock.py" in path.name:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and _is_sql(node.value)
                and bare.search(node.value)
            ):
                found.append(f"{path}:{node.lineno}")
    assert found == []


def _is_sql(text: str) -> bool:
    return re.search(r"\b(SELECT|INSERT|UPDATE|DELETE)\b", text) is not None


def test_sql_is_in_repositories() -> None:
    """Every statement of a service stands in its repository, named and readable."""
    found = []
    for service in POSTGRES_SERVICES:
        for path in python_files(service):
            if (
                "repository" in str(path.relative_to(ROOT / service))
                or "migrations" in path.parts
                or path.name == "models.py"
            ):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and re.match(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\b", node.value)
                ):
                    found.append(f"{path}:{node.lineno}")
    assert found == []


def test_endpoints_ask_for_a_scope_and_never_for_a_role() -> None:
    """Who may do what is the table's to say: a new role is a column of it, and no endpoint has to know."""
    found = []
    for service in SERVICES:
        for path in python_files(service):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare) and re.search(r"caller\.(principal\.)?role", ast.unparse(node)):
                    found.append(f"{path}:{node.lineno}")
    assert found == []


ALLOWED_STAGES = {
    "$match",
    "$group",
    "$sort",
    "$skip",
    "$limit",
    "$project",
    "$unwind",
    "$facet",
    "$dateTrunc",
    "$merge",
}


def test_documents_keep_to_what_every_backend_has() -> None:
    """No transactions, no change streams, only the stages that our local server, mongomock and MongoDB do alike."""
    found = []
    for path in python_files("notifier", "auditor", "shared/mongo"):
        source = path.read_text()
        for name in ("start_session", "start_transaction", ".watch(", "Decimal128"):
            if name in source:
                found.append(f"{path}: {name}")
        for stage in re.findall(r"\{\s*\"(\$[a-zA-Z]+)\":", source):
            if stage in {"$lookup", "$setWindowFields", "$unionWith", "$bucket", "$graphLookup", "$out"}:
                found.append(f"{path}: {stage}")
    assert found == []


LAYOUT = {
    "__init__", "app", "worker", "relay", "settings", "dependencies", "models", "states", "documents", "schemas", "transitions",
    "repository", "service", "endpoints", "tasks", "errors", "migrations",
}  # fmt: skip
OWN_ROOMS = {
    "asset_service": {"book", "fold", "ledger", "reservations", "settlement"},
    "auditor": {"archive", "chain", "checkpoints", "export", "keeping", "records", "refusals", "telemetry", "writer"},
    "customer_service": {"passwords", "personal", "sign_in_limit"},
    "notifier": {"channels", "sender", "templates"},
    "order_service": {"archive_repository", "group_commit", "instruments", "running_keys", "waiting"},
    "processor": {"matching", "sagas"},
}


@pytest.mark.parametrize("service", SERVICES)
def test_names_tell_where_to_go(service: str) -> None:
    """The same job has the same file name in every service; what is a service's own is listed here."""
    names = {path.stem for path in (ROOT / service).iterdir() if path.name != "__pycache__"}
    assert names - LAYOUT - OWN_ROOMS[service] == set()


def test_what_runs_alone_is_where_it_is_looked_for() -> None:
    """`make test` leaves it out of what runs beside each other, and then collects only tests/e2e."""
    marked = [path for path in python_files("tests") if re.search(r"\bmark\.alone\b", path.read_text())]
    assert marked
    assert [path for path in marked if path.parent != ROOT / "tests" / "e2e" and path != Path(__file__)] == []


def test_each_test_file_has_a_name_of_its_own() -> None:
    """Two of one name are one module to pytest, and the second is an error as soon as both are collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_are_one_chain(service: str) -> None:
    """Two versions with one number, written at the same time, would leave it to chance which of them is run."""
    numbers = [path.name[:4] for path in sorted((ROOT / service / "migrations" / "versions").glob("0*.py"))]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]


def test_no_committed_file_names_this_machine_or_a_download_host() -> None:
    """The lock is hashes and versions; where packages come from is the reader's own setting."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--hash=sha256:" in lock
