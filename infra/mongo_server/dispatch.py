"""From a request to its answer: which command, which errors."""

import sqlite3
import sys
import traceback
from collections.abc import Callable

from bson.errors import BSONError

from infra.mongo_server.arguments import Arguments
from infra.mongo_server.commands_admin import Admin
from infra.mongo_server.commands_read import Reads
from infra.mongo_server.commands_write import Writes
from infra.mongo_server.cursors import Cursors
from infra.mongo_server.errors import CommandError, bad_value
from infra.mongo_server.moments import Moments
from infra.mongo_server.paths import Doc
from infra.mongo_server.protocol import Request, reply_bytes
from infra.mongo_server.storage import Storage

Handler = Callable[[Arguments], Doc]


class Dispatcher:
    """Answers every request, never with an exception."""

    def __init__(self, storage: Storage, cursors: Cursors, moments: Moments) -> None:
        admin, reads, writes = Admin(storage), Reads(storage, cursors, moments), Writes(storage)
        self._handlers: dict[str, Handler] = {
            "hello": admin.hello,
            "isMaster": admin.hello,
            "ismaster": admin.hello,
            "ping": admin.ping,
            "endSessions": admin.end_sessions,
            "buildInfo": admin.build_info,
            "buildinfo": admin.build_info,
            "serverStatus": admin.server_status,
            "getParameter": admin.get_parameter,
            "listDatabases": admin.list_databases,
            "listCollections": admin.list_collections,
            "create": admin.create,
            "drop": admin.drop,
            "dropDatabase": admin.drop_database,
            "createIndexes": admin.create_indexes,
            "listIndexes": admin.list_indexes,
            "dropIndexes": admin.drop_indexes,
            "find": reads.find,
            "getMore": reads.get_more,
            "killCursors": reads.kill_cursors,
            "count": reads.count,
            "distinct": reads.distinct,
            "aggregate": reads.aggregate,
            "explain": reads.explain,
            "insert": writes.insert,
            "update": writes.update,
            "delete": writes.delete,
            "findAndModify": writes.find_and_modify,
            "findandmodify": writes.find_and_modify,
        }

    def answer(self, request: Request) -> bytes:
        """The framed answer; what BSON cannot hold is answered as an error as well."""
        try:
            return reply_bytes(request, self._answer(request))
        except Exception as error:  # noqa: BLE001 - whatever one command does must not end the server
            return reply_bytes(request, _error_reply(error))

    def _answer(self, request: Request) -> Doc:
        command = next(iter(request.body), "")
        handler = self._handlers.get(command)
        if handler is None:
            raise CommandError(59, f"no such command: '{command}' (local document server)")
        database = request.body.get("$db")
        if not isinstance(database, str) or not database or set(database) & set('/\\. "$\0'):
            raise CommandError(73, f"invalid database name {database!r}")
        return handler(Arguments(database, command, request.body, request.sequences))


def _error_reply(error: Exception) -> Doc:
    match error:
        case CommandError():
            return error.reply()
        case BSONError() | OverflowError():
            return bad_value(str(error)).reply()
        case RecursionError():
            return bad_value("the command is nested too deeply").reply()
        case sqlite3.OperationalError():
            full = "full" in str(error)
            return CommandError(14031 if full else 1, f"storage: {error}").reply()
    traceback.print_exception(error, file=sys.stderr)
    return CommandError(1, "internal error, see the log of the local document server").reply()
