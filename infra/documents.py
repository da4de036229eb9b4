"""`make docs`: what the documentation shows of the code is written by the code: state diagrams and message schemas."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from order_service.transitions import ORDER_TRANSITIONS
from processor.sagas.order_saga import ORDER_SAGA
from processor.sagas.trade_saga import TRADE_SAGA
from shared.contracts import Command, contracts
from shared.statemachine import StateMachine

DOCS = Path(__file__).parents[1] / "docs"
_GENERATED = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def state_diagram(machine: StateMachine[Any, Any]) -> str:
    """A Mermaid diagram of a transition table; commands sent on the way stand behind the message."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for (state, message), row in machine.rows.items():
        commands = getattr(row, "commands", ())
        label = f"{message} / {', '.join(commands)}" if commands else message
        lines.append(f"    {state} --> {getattr(row, 'target', row)}: {label}")
    lines += [f"    {state} --> [*]" for state in sorted(machine.terminal)]
    return "\n".join([*lines, "```"])


def message_table() -> str:
    """Every event and command with what it speaks of and who reads it."""
    lines = ["| message | kind | about | readers |", "|---|---|---|---|"]
    for name, known in sorted(contracts().items()):
        kind = "command" if issubclass(known.payload, Command) else "event"
        lines.append(f"| `{name}` | {kind} | {known.aggregate_type} | {', '.join(known.readers)} |")
    return "\n".join(lines)


def sections() -> Mapping[str, str]:
    """What stands between `<!-- generated: name -->` and `<!-- end -->` in the documents."""
    return {
        "order_states": state_diagram(ORDER_TRANSITIONS),
        "order_saga": state_diagram(ORDER_SAGA),
        "trade_saga": state_diagram(TRADE_SAGA),
        "messages": message_table(),
    }


def rendered(text: str) -> str:
    """`text` with its generated sections as the code is now."""
    known = sections()

    def section(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{known[match[1]]}\n<!-- end -->"

    return _GENERATED.sub(section, text)


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


if __name__ == "__main__":
    main()
