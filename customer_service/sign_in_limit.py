"""At most 60 failed sign-ins a minute from one address; successful ones are not counted. Source: contract, Rate
limits."""

from prometheus_client import Counter

from shared.errors import RateLimited
from shared.http.limits import Allowance, LocalBuckets
from shared.http.valkey import Script, Unavailable, Valkey

FAILURES_PER_MINUTE = 60
_WINDOW_SECONDS = 60

refused = Counter("brokage_sign_in_refused_total", "Sign-ins refused because of their address")


class SignInLimit:
    """Counts in Valkey; while it is away, in this process."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._local = LocalBuckets()

    def check(self, address: str) -> None:
        """
        Raises:
            RateLimited: too many failures from there in the last minute.
        """
        try:
            found = self._valkey.run(_CHECK, [_key(address)], [])
        except Unavailable:
            if not self._local.left(Allowance(_key(address), FAILURES_PER_MINUTE)):
                refused.inc()
                raise RateLimited(headers={"Retry-After": "1"}) from None
            return
        failures, seconds = found
        if failures >= FAILURES_PER_MINUTE:
            refused.inc()
            raise RateLimited(headers={"Retry-After": str(max(1, seconds))})

    def count_failure(self, address: str) -> None:
        try:
            self._valkey.run(_COUNT, [_key(address)], [_WINDOW_SECONDS])
        except Unavailable:
            self._local.take(Allowance(_key(address), FAILURES_PER_MINUTE))


def _key(address: str) -> str:
    return f"signin:failures:{address}"


_CHECK = Script("""
return {tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('TTL', KEYS[1])}
""")

_COUNT = Script("""
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return failures
""")
