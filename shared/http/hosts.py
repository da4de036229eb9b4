"""Under which names we may be called: one well-formed `Host`, and if there is a list, one on it."""

import re

from shared.http.lists import entries

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9_.-]{1,255})(:[0-9]{1,5})?", re.ASCII)


class AllowedHosts:
    """From text such as `api.example.com, [::1]`; empty allows every name. Ports do not matter.

    Raises:
        ValueError: an entry is no host's name.
    """

    def __init__(self, text: str = "") -> None:
        self._names = frozenset(entry.lower() for entry in entries(text))
        for name in self._names:
            match = _HOST.fullmatch(name)
            if match is None or match[2]:
                raise ValueError("a host is a name or an address, without a port")

    def well_formed(self, host: bytes) -> bool:
        return _HOST.fullmatch(host.decode("latin-1")) is not None

    def allows(self, host: bytes) -> bool:
        """Whether a well-formed `Host` is one of ours."""
        if not self._names:
            return True
        match = _HOST.fullmatch(host.decode("latin-1"))
        return match is not None and match[1].lower() in self._names
