"""What callers were told, and whether the stores keep it. The system cannot vouch for this itself: only callers know what they
asked for and what they were answered."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

NOTHING_LOST = "what was acknowledged exists"
NOTHING_DOUBLED = "one effect for each key"
NOTHING_INVENTED = "no effect that nobody asked for"

_ORDERS = "SELECT id FROM orders"
_TRADES = "SELECT id FROM trades"


class Promises:
    """Answers of one run: `asked` by key, and what each was told. A repeat of a key is told the same."""

    def __init__(self) -> None:
        self._told: dict[str, list[tuple[str, ...]]] = {}

    def told(self, key: str, ids: Sequence[str]) -> None:
        """The caller with `key` got an answer that names `ids`."""
        self._told.setdefault(key, []).append(tuple(ids))

    def broken(self, read: Callable[[str, str], list[Any]]) -> Iterator[tuple[str, str]]:
        """Which of the rules above is broken, and how.

        Args:
            read: the first columns of a service's rows; callers ask for orders and trades only.
        """
        exist = {str(id) for service, query in _QUERIES for id in read(service, query)}
        promised = Counter(id for answers in self._told.values() for id in {id for ids in answers for id in ids})
        for id in sorted(promised.keys() - exist):
            yield NOTHING_LOST, f"{id} was acknowledged, but does not exist"
        for key, answers in self._told.items():
            if len(set(answers)) > 1:
                yield NOTHING_DOUBLED, f"{key} was answered with {sorted(set(answers))}"
        if self._told:
            for id in sorted(exist - promised.keys()):
                yield NOTHING_INVENTED, f"nobody was told of {id}"


_QUERIES = (("order_service", _ORDERS), ("processor", _TRADES))
