"""What becomes of each request of a batch: a fold over client ids and keys, without a database."""

from order_service.errors import ClientOrderIdReused
from order_service.service.placing import Claim, _Taken, _Verdict
from shared.idempotency import IdempotencyKeyReused, IdempotentCall, KeyScope


def claim(order_id: str, *, key: str | None = None, client: str | None = None, digest: str = "d") -> Claim:
    call = IdempotentCall(KeyScope("1", "POST", "/api/orders", key), digest) if key else None
    return Claim(order_id, call, (1, 1, client) if client else None, digest)


class TestOneBatch:
    def test_repeats_of_one_another(self) -> None:
        taken = _Taken([], [])
        assert taken.judge(claim("a", client="c")) == _Verdict("a", 201)
        assert taken.judge(claim("b", client="c")) == _Verdict("a", 200)
        assert taken.judge(claim("x", key="k")) == _Verdict("x", 201)
        assert taken.judge(claim("y", key="k")) == _Verdict("x", 201, replayed=True)
        assert taken.fresh == {"a", "x"}

    def test_contradictions_take_nothing(self) -> None:
        taken = _Taken([], [])
        taken.judge(claim("a", client="c", key="k"))
        assert isinstance(taken.judge(claim("b", client="c", key="k2", digest="other")), ClientOrderIdReused)
        assert isinstance(taken.judge(claim("b", client="c2", key="k", digest="other")), IdempotencyKeyReused)
        assert taken.judge(claim("e", client="c2")) == _Verdict("e", 201)
        assert taken.judge(claim("f", key="k2")) == _Verdict("f", 201)
        assert len(taken.new_keys) == 2
        assert len(taken.new_client_ids) == 2


class TestCommitWhoseAnswerWasLost:
    def test_own_client_id_and_key_are_no_replay(self) -> None:
        client_ids = [
            {"customer_id": 1, "placed_by": 1, "client_order_id": "c", "order_id": "a", "request_digest": "d"}
        ]
        keys = [
            {
                "principal": "1",
                "method": "POST",
                "route": "/api/orders",
                "key": "k",
                "request_digest": "d",
                "status_code": 201,
                "resource_id": "x",
            }
        ]
        taken = _Taken(client_ids, keys)
        assert taken.judge(claim("a", client="c")) == _Verdict("a", 201)
        assert taken.judge(claim("x", key="k")) == _Verdict("x", 201)
        assert not taken.fresh
        assert not taken.new_keys
