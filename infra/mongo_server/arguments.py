"""Reading a command's fields: each command names what it takes, everything else is refused."""

from dataclasses import dataclass
from typing import Any, Final

from bson.timestamp import Timestamp

from infra.mongo_server.errors import CommandError, bad_value, not_supported
from infra.mongo_server.paths import Doc

# What drivers send with any command and what changes nothing on a single server.
_HARMLESS: Final = frozenset(
    {"$db", "lsid", "$readPreference", "$clusterTime", "comment", "maxTimeMS", "readConcern", "writeConcern"}
)
_READ_CONCERNS: Final[list[Doc]] = [{}, {"level": "local"}, {"level": "available"}, {"level": "majority"}]
_SNAPSHOT: Final = "snapshot"


@dataclass(frozen=True, slots=True)
class Arguments:
    """One command's checked fields."""

    database: str
    command: str
    body: Doc
    sequences: dict[str, list[bytes]]

    def check(self, allowed: frozenset[str], *, of_a_moment: bool = False) -> None:
        """`of_a_moment`: the command can read a snapshot that was taken before."""
        for name, value in self.body.items():
            if name in ("txnNumber", "startTransaction", "autocommit"):
                raise CommandError(20, "Transaction numbers are only allowed on a replica set member or mongos")
            if name not in _HARMLESS and name not in allowed and name != self.command:
                raise CommandError(40415, f"BSON field '{self.command}.{name}' is unknown to the local document server")
            if name == "writeConcern":
                _check_write_concern(value)
            elif name == "readConcern" and value not in _READ_CONCERNS and not (of_a_moment and self.of_a_moment):
                raise not_supported(f"readConcern {value}")
        if unknown := set(self.sequences) - allowed:
            raise CommandError(40415, f"unknown document sequence {sorted(unknown)}")

    @property
    def of_a_moment(self) -> bool:
        """Whether it asks for a snapshot that outlives the command."""
        concern = self.body.get("readConcern")
        return isinstance(concern, dict) and concern.get("level") == _SNAPSHOT

    @property
    def moment(self) -> Timestamp | None:
        """Which snapshot it asks for; None: one of now."""
        concern = self.body["readConcern"]
        moment = concern.get("atClusterTime")
        if set(concern) - {"level", "atClusterTime"} or not isinstance(moment, Timestamp | None):
            raise not_supported(f"readConcern {concern}")
        return moment

    @property
    def target(self) -> str:
        """The collection the command names."""
        name = self.body[self.command]
        if not isinstance(name, str) or not name or "$" in name or "\0" in name or name.startswith((".", "system.")):
            raise CommandError(73, f"invalid collection name {name!r}")
        return name

    def document(self, name: str) -> Doc:
        value = self.body.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise CommandError(14, f"'{name}' must be an object")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.body.get(name, default)
        if not isinstance(value, bool | int | float):
            raise CommandError(14, f"'{name}' must be a boolean")
        return bool(value)

    def number(self, name: str) -> int:
        value = self.body.get(name, 0)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise bad_value(f"'{name}' must be a whole number of at least 0")
        return value

    def batch_size(self, holder: Doc | None = None) -> int | None:
        value = (self.body if holder is None else holder).get("batchSize")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise bad_value("'batchSize' must be a whole number of at least 0")
        return value

    def statements(self, name: str) -> list[Any]:
        """The documents of a bulk command, sent inside the body or beside it (raw)."""
        inside = self.body.get(name)
        if name in self.sequences:
            return list(self.sequences[name])
        if not isinstance(inside, list):
            raise CommandError(14, f"'{name}' must be an array")
        return inside


def check_fields(what: str, spec: Doc, allowed: frozenset[str]) -> None:
    if not isinstance(spec, dict):
        raise CommandError(14, f"{what} must be an object")
    if unknown := set(spec) - allowed:
        raise CommandError(40415, f"BSON field '{what}.{min(unknown)}' is unknown to the local document server")


def _check_write_concern(concern: Any) -> None:
    if not isinstance(concern, dict) or set(concern) - {"w", "j", "wtimeout", "fsync"}:
        raise CommandError(9, f"invalid writeConcern {concern!r}")
    if concern.get("w", 1) not in (0, 1, "majority"):
        raise CommandError(100, "Not enough data-bearing nodes")
