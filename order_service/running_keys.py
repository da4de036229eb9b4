"""Which `Idempotency-Key`s are being worked on in this process right now.

Between processes Postgres decides: the second request waits for the first one's transaction and repeats its answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.idempotency import IdempotencyKeyInUse, IdempotencyKeyReused, IdempotentCall, KeyScope


class RunningKeys:
    """Used from the event loop only. Costs no round trip and leaves nothing behind when the process dies."""

    def __init__(self) -> None:
        self._digests: dict[KeyScope, str] = {}

    @contextmanager
    def held(self, call: IdempotentCall | None) -> Iterator[None]:
        """Around the work of a request.

        Raises:
            IdempotencyKeyInUse: the same request is running.
            IdempotencyKeyReused: another request with the key is running.
        """
        if call is None:
            yield
            return
        running = self._digests.get(call.scope)
        if running is not None:
            raise IdempotencyKeyInUse() if running == call.digest else IdempotencyKeyReused()
        self._digests[call.scope] = call.digest
        try:
            yield
        finally:
            del self._digests[call.scope]
