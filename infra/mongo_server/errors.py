"""The one exception that becomes an error answer, with MongoDB's codes."""

from typing import Any

_CODE_NAMES = {
    1: "InternalError",
    2: "BadValue",
    9: "FailedToParse",
    14: "TypeMismatch",
    20: "IllegalOperation",
    26: "NamespaceNotFound",
    27: "IndexNotFound",
    28: "PathNotViable",
    40: "ConflictingUpdateOperators",
    43: "CursorNotFound",
    48: "NamespaceExists",
    52: "DollarPrefixedFieldName",
    54: "NotSingleValueField",
    59: "CommandNotFound",
    66: "ImmutableField",
    67: "CannotCreateIndex",
    72: "InvalidOptions",
    73: "InvalidNamespace",
    85: "IndexOptionsConflict",
    86: "IndexKeySpecsConflict",
    100: "UnsatisfiableWriteConcern",
    115: "CommandNotSupported",
    171: "CannotIndexParallelArrays",
    292: "QueryExceededMemoryLimitNoDiskUseAllowed",
    10334: "BSONObjectTooLarge",
    11000: "DuplicateKey",
    12051: "CursorInUse",
    14031: "OutOfDiskSpace",
    40324: "Location40324",
}


class CommandError(Exception):
    """A refusal; `extra` fields (keyPattern, keyValue) stand beside the code in the answer."""

    def __init__(self, code: int, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra

    @property
    def code_name(self) -> str:
        return _CODE_NAMES.get(self.code, f"Location{self.code}")

    def reply(self) -> dict[str, Any]:
        return {"ok": 0.0, "errmsg": self.message, "code": self.code, "codeName": self.code_name, **self.extra}

    def write_error(self, index: int) -> dict[str, Any]:
        """One element of `writeErrors`."""
        return {"index": index, "code": self.code, "errmsg": self.message, **self.extra}


def bad_value(message: str) -> CommandError:
    return CommandError(2, message)


def not_supported(what: str) -> CommandError:
    """For what a real MongoDB knows and this server does not: loud, so that nobody relies on it."""
    return CommandError(115, f"{what} is not supported by the local document server")
