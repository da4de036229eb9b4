"""Proxies in front of us: what they say of a caller is believed only if they are on the list."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from shared.http.lists import entries

Headers = Sequence[tuple[bytes, bytes]]


class TrustedProxies:
    """Addresses and networks, from text such as `10.0.0.7, 10.1.0.0/16, ::1`.

    Raises:
        ValueError: an entry is neither.
    """

    def __init__(self, text: str = "") -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(entry) for entry in entries(text)]

    def __contains__(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def caller(self, peer: str, headers: Headers) -> str:
        """Who really calls: the last in `X-Forwarded-For` whom no proxy of ours stands for."""
        if not self._networks or peer not in self:
            return peer
        for hop in reversed(_values(headers, b"x-forwarded-for")):
            if hop not in self:
                return hop
        return peer

    def over_tls(self, peer: str, headers: Headers) -> bool:
        """Whether a proxy of ours says that the caller came to it by https."""
        if not self._networks or peer not in self:
            return False
        return _values(headers, b"x-forwarded-proto")[-1:] == ["https"]


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    joined = b",".join(value for name, value in headers if name == wanted).decode("latin-1")
    return entries(joined)
