"""`make docs`: what the documentation shows of the code is written by the code: state diagrams, messages, schemas, settings."""

import importlib
import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from infra.services import SERVICES
from order_service.transitions import ORDER_MACHINE
from processor.sagas.order_saga import ORDER_SAGA
from processor.sagas.trade_saga import TRADE_SAGA
from shared.app import EdgeSettings
from shared.contracts import Command, contracts
from shared.settings import ServiceSettings
from shared.statemachine import StateMachine

DOCS = Path(__file__).parents[1] / "docs"
_GENERATED = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
_SERVERS = ("redis_url", "broker_url", "mongo_url", "jwks_url", "key_dir")


def state_diagram(machine: StateMachine[Any, Any]) -> str:
    """A Mermaid diagram of a transition table; commands sent on the way stand behind the message.

    A row that passes through several states at once (`path`) is drawn as its steps; only the first one has the message.
    """
    lines = ["```mermaid", "stateDiagram-v2"]
    drawn: set[str] = set()
    for (state, message), row in machine.rows.items():
        commands = getattr(row, "commands", ())
        label = f"{message} / {', '.join(commands)}" if commands else message
        path = getattr(row, "path", None) or (row.target,)
        steps = [f"    {state} --> {path[0]}: {label}"]
        steps += [f"    {before} --> {after}: at once" for before, after in pairwise(path)]
        lines += [step for step in steps if step not in drawn]
        drawn.update(steps)
    used = {state for state, _ in machine.rows} | {row.target for row in machine.rows.values()}
    lines += [f"    {state} --> [*]" for state in sorted(machine.terminal & used)]
    return "\n".join([*lines, "```"])


def message_table() -> str:
    """Every event and command with what it speaks of and who reads it."""
    lines = ["| message | kind | about | readers |", "|---|---|---|---|"]
    for name, known in sorted(contracts().items()):
        kind = "command" if issubclass(known.payload, Command) else "event"
        lines.append(
            f"| [`{name}`](contracts/{name}.json) | {kind} | {known.aggregate_type} | {', '.join(known.readers)} |"
        )
    return "\n".join(lines)


def settings_table() -> str:
    """Every setting that a process reads through a settings class, with its default; addresses of servers come first."""
    lines = ["| variable | default | read by |", "|---|---|---|"]
    own = [(service, importlib.import_module(f"{service}.settings").Settings) for service in SERVICES]
    groups: list[tuple[str, type[ServiceSettings]]] = [
        ("every service", ServiceSettings),
        ("API processes", EdgeSettings),
        *own,
    ]
    rows: list[tuple[bool, str]] = []
    inherited = set(ServiceSettings.model_fields)
    for reader, settings in groups:
        for name, field in settings.model_fields.items():
            if settings is ServiceSettings or name not in inherited:
                is_address = name in _SERVERS or name.endswith("_database_url")
                default = "none; must be set" if field.is_required() else _plain(field.default)
                rows.append((is_address, f"| `BROKAGE_{name.upper()}` | {default} | {reader} |"))
    lines += [row for is_address, row in rows if is_address]
    lines += [row for is_address, row in rows if not is_address]
    return "\n".join(lines)


def _plain(value: object) -> str:
    if value is None:
        return "not set"
    return f"`{value}`" if str(value) else "empty"


@cache
def sections() -> Mapping[str, str]:
    """What stands between `<!-- generated: name -->` and `<!-- end -->` in the documents."""
    return {
        "order_states": state_diagram(ORDER_MACHINE),
        "order_saga": state_diagram(ORDER_SAGA),
        "trade_saga": state_diagram(TRADE_SAGA),
        "messages": message_table(),
        "settings": settings_table(),
    }


def rendered(text: str) -> str:
    """`text` with its generated sections as the code is now.

    Raises:
        KeyError: a section that nothing generates.
    """
    return _GENERATED.sub(lambda match: f"<!-- generated: {match[1]} -->\n{sections()[match[1]]}\n<!-- end -->", text)


def schema_of(name: str) -> bytes:
    """The exported schema of a message, as stored."""
    known = contracts()[name]
    document = {
        "type": name,
        "version": known.version,
        "aggregate_type": known.aggregate_type,
        "readers": known.readers,
        "schema": msgspec.json.schema(known.payload),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def main() -> None:
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(rendered(text), encoding="utf-8")
    folder = DOCS / "contracts"
    folder.mkdir(exist_ok=True)
    for name in contracts():
        (folder / f"{name}.json").write_bytes(schema_of(name))
    for path in folder.glob("*.json"):
        if path.stem not in contracts():
            path.unlink()


if __name__ == "__main__":
    main()
