"""Rate limits: a token bucket per customer or address, kept in Valkey in one round trip for all requests of a moment.
Source: contract, Rate limits."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from prometheus_client import Counter

from shared.auth.ended_sessions import TOKENS_LONGER_SECONDS
from shared.auth.permissions import Role
from shared.auth.principals import Principal
from shared.gathering import Gathering
from shared.http.valkey import AsyncValkey, Script, Unavailable

STAFF_PER_MINUTE = 6000
_STAFF = frozenset({Role.ADMIN, Role.BROKER, Role.AUDITOR})
ANONYMOUS_PER_MINUTE = 300
_LOCAL_BUCKETS_MAX = 20_000
_TAKEN_AT_ONCE = 100

unlimited = Counter("brokage_rate_limit_open_total", "Requests judged without Valkey", ["kind"])


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whose bucket, and how much it holds; `limit` requests a minute."""

    key: str
    limit: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reset_seconds` until the bucket is full again, `retry_seconds` until it has one token."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: float
    retry_seconds: float = 0.0
    session_revoked: bool = False


def allowance_of(principal: Principal | None, address: str) -> Allowance:
    if principal is None:
        return Allowance(f"rate:address:{address}", ANONYMOUS_PER_MINUTE)
    limit = STAFF_PER_MINUTE if principal.role in _STAFF else principal.rate_limit
    return Allowance(f"rate:customer:{principal.customer_id}", limit)


@lru_cache(maxsize=4096)
def address_key(host: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits is one subscriber."""
    try:
        address = ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)


class RateLimiter:
    """Judges requests. Without Valkey it lets reads pass and holds writes to a bucket of this process, and counts
    both."""

    def __init__(self, valkey: AsyncValkey) -> None:
        self._valkey = valkey
        self._local = LocalBuckets()
        self._taking: Gathering[tuple[Allowance, str, str], Verdict] = Gathering(self._take, at_most=_TAKEN_AT_ONCE)

    async def judge(
        self, allowance: Allowance, *, session_id: str | None, api_key_id: str | None = None, write: bool
    ) -> Verdict:
        """Take one token. The same round trip asks whether the caller's session was signed out, or a program's key revoked."""
        try:
            return await self._taking.ask((allowance, session_id or "", api_key_id or ""))
        except Unavailable:
            return self._without_valkey(allowance, write=write)

    async def _take(self, asked: Sequence[tuple[Allowance, str, str]]) -> list[Verdict]:
        keys = [key for allowance, *ids in asked for key in (allowance.key, *map(revoked_key, ids))]
        limits = [allowance.limit for allowance, *_ in asked]
        answer: bytes = await self._valkey.run(_TAKE, keys, limits)
        return [_verdict(limit, line) for limit, line in zip(limits, answer.split(b";"), strict=True)]

    def _without_valkey(self, allowance: Allowance, *, write: bool) -> Verdict:
        unlimited.labels("write" if write else "read").inc()
        if not write:
            return Verdict(True, allowance.limit, allowance.limit, 0.0)
        return self._local.take(allowance)


def _verdict(limit: int, line: bytes) -> Verdict:
    allowed, remaining, reset, retry, revoked = map(int, line.split())
    return Verdict(bool(allowed), limit, remaining, reset / 1000, retry / 1000, bool(revoked))


class LocalBuckets:
    """The same bucket in this process's memory, bounded; the least recently used are forgotten."""

    def __init__(self, buckets_max: int = _LOCAL_BUCKETS_MAX) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._buckets_max = buckets_max

    def left(self, allowance: Allowance) -> bool:
        """Whether a token could be taken now; takes none."""
        tokens, since = self._buckets.get(allowance.key, (float(allowance.limit), 0.0))
        return _level(tokens, since, time.monotonic(), allowance.limit) >= 1

    def take(self, allowance: Allowance, now: float | None = None) -> Verdict:
        moment = time.monotonic() if now is None else now
        per_second = allowance.limit / 60
        tokens, since = self._buckets.pop(allowance.key, (float(allowance.limit), moment))
        tokens = _level(tokens, since, moment, allowance.limit)
        allowed = tokens >= 1
        tokens -= 1 if allowed else 0
        self._buckets[allowance.key] = (tokens, moment)
        while len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        reset = (allowance.limit - tokens) / per_second
        return Verdict(allowed, allowance.limit, int(tokens), reset, 0 if allowed else (1 - tokens) / per_second)


def _level(tokens: float, since: float, moment: float, limit: int) -> float:
    return min(float(limit), tokens + (moment - since) * limit / 60)


def revoked_key(session_id: str) -> str:
    """Where a signed-out session, or a revoked API key, is remembered, beside every service's own store, while its last
    access token could still be good: known here at once, there when the event has arrived."""
    return f"session:revoked:{session_id}"


def revoke_command(session_id: str, lifetime_seconds: int = 15 * 60) -> tuple[str | int, ...]:
    """The command that ends a session's access tokens; `lifetime_seconds` is how long the youngest of them lives."""
    return ("SET", revoked_key(session_id), "1", "EX", lifetime_seconds + TOKENS_LONGER_SECONDS)


_TAKE = Script("""
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function take(bucket, limit)
  local tokens, since = limit, now
  local stored = redis.call('GET', bucket)
  if stored then
    local separator = string.find(stored, ' ', 1, true)
    tokens = tonumber(string.sub(stored, 1, separator - 1))
    since = tonumber(string.sub(stored, separator + 1))
  end
  local each = limit / 60000
  tokens = math.min(limit, tokens + math.max(0, now - since) * each)
  local allowed, retry = 0, 0
  if tokens >= 1 then
    allowed, tokens = 1, tokens - 1
    redis.call('SET', bucket, string.format('%.4f %d', tokens, now), 'PX', 70000)
  else
    retry = math.ceil((1 - tokens) / each)
  end
  return string.format('%d %d %d %d', allowed, math.floor(tokens), math.ceil((limit - tokens) / each), retry)
end

local verdicts = {}
for number, limit in ipairs(ARGV) do
  local revoked = redis.call('EXISTS', KEYS[3 * number - 1], KEYS[3 * number])
  verdicts[number] = take(KEYS[3 * number - 2], tonumber(limit)) .. ' ' .. revoked
end
return table.concat(verdicts, ';')
""")
"""KEYS: bucket, session and API key of each request; ARGV: their limits. One text for all verdicts, because a client reads
numbers of an array one by one."""
