"""Every SQL statement of customer_service. Nothing here commits."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from shared.db import Connection

Row = dict[str, Any]

_STATE = """
SELECT c.id, c.id AS customer_id, c.organization_id, c.username, c.email, c.phone, c.national_id, c.iban,
       c.personal_key_version, c.full_name, c.role, c.tier, c.active,
       coalesce(c.beneficial_owner_id, c.id) AS beneficial_owner_id, c.tokens_valid_from,
       c.version, c.created_at, c.updated_at, t.priority AS tier_priority, t.rate_limit, t.fee_rate, t.fee_minimum,
       ARRAY(SELECT b.broker_id FROM broker_customers b WHERE b.customer_id = c.id ORDER BY 1) AS brokers
FROM customers c JOIN customer_tiers t ON t.tier_code = c.tier
"""


def find_state(connection: Connection, customer_id: int) -> Row | None:
    """A customer with his tier's terms and his brokers: what an event carries and a principal is made of."""
    return connection.execute(_STATE + "WHERE c.id = %(id)s", {"id": customer_id}).fetchone()


def find_states(connection: Connection, ids: Collection[int]) -> list[Row]:
    return connection.execute(_STATE + "WHERE c.id = ANY(%(ids)s::bigint[])", {"ids": list(ids)}).fetchall()


def find_state_by_username(connection: Connection, username: str) -> Row | None:
    return connection.execute(_STATE + "WHERE c.username = %(username)s", {"username": username}).fetchone()


def list_states(connection: Connection, *, after_id: int, limit: int) -> list[Row]:
    return connection.execute(
        _STATE + "WHERE c.id > %(after_id)s ORDER BY c.id LIMIT %(limit)s", {"after_id": after_id, "limit": limit}
    ).fetchall()


def list_brokers(connection: Connection, *, only_id: int | None, after_id: int, limit: int) -> list[Row]:
    return connection.execute(
        """
        SELECT c.id, c.username, c.full_name, c.active,
               (SELECT count(*) FROM broker_customers b WHERE b.broker_id = c.id) AS customers
        FROM customers c
        WHERE c.role = 'BROKER' AND c.id > %(after_id)s AND (%(only_id)s::bigint IS NULL OR c.id = %(only_id)s)
        ORDER BY c.id LIMIT %(limit)s
        """,
        {"only_id": only_id, "after_id": after_id, "limit": limit},
    ).fetchall()


def list_broker_customers(connection: Connection, broker_id: int, *, after_id: int, limit: int) -> list[Row]:
    return connection.execute(
        _STATE
        + """JOIN broker_customers bc ON bc.customer_id = c.id AND bc.broker_id = %(broker_id)s
        WHERE c.id > %(after_id)s ORDER BY c.id LIMIT %(limit)s""",
        {"broker_id": broker_id, "after_id": after_id, "limit": limit},
    ).fetchall()


def lock_customer(connection: Connection, customer_id: int) -> bool:
    """Hold the customer's row until the transaction ends; whether there is one. Locks are taken in ascending order of
    id."""
    query = "SELECT 1 FROM customers WHERE id = %(id)s FOR UPDATE"
    return connection.execute(query, {"id": customer_id}).fetchone() is not None


def insert_customer(connection: Connection, values: Row) -> int | None:
    """The new id; None when the username or the e-mail address is taken."""
    row = connection.execute(
        """
        INSERT INTO customers (username, password_hash, email, full_name, role, tier, beneficial_owner_id,
                               organization_id)
        VALUES (%(username)s, %(password_hash)s, %(email)s, %(full_name)s, %(role)s, %(tier)s,
                %(beneficial_owner_id)s, %(organization_id)s)
        ON CONFLICT DO NOTHING RETURNING id
        """,
        values,
    ).fetchone()
    if row is None:
        return None
    connection.execute("INSERT INTO notification_preferences (customer_id) VALUES (%(id)s)", {"id": row["id"]})
    customer_id: int = row["id"]
    return customer_id


def update_customer(connection: Connection, customer_id: int, values: Row) -> None:
    """Set all the columns a change may touch; the caller holds the row's lock."""
    connection.execute(
        """
        UPDATE customers SET email = %(email)s, full_name = %(full_name)s, active = %(active)s,
               role = %(role)s, tier = %(tier)s, tokens_valid_from = %(tokens_valid_from)s,
               version = version + 1, updated_at = brokage_now()
        WHERE id = %(id)s
        """,
        {**values, "id": customer_id},
    )


def set_personal(connection: Connection, rows: Sequence[Row]) -> None:
    """Each row: `id` and the columns of `personal.sealed`. The caller holds the rows' locks."""
    connection.cursor().executemany(
        """
        UPDATE customers SET phone = %(phone)s, national_id = %(national_id)s, iban = %(iban)s,
               personal_key_version = %(personal_key_version)s
        WHERE id = %(id)s
        """,
        rows,
    )


def lock_personal_under_older_keys(connection: Connection, key_version: int, limit: int) -> list[Row]:
    """In ascending order of id, as all locks of customers are taken."""
    return connection.execute(
        """
        SELECT id, phone, national_id, iban, personal_key_version FROM customers
        WHERE personal_key_version < %(key_version)s ORDER BY id LIMIT %(limit)s FOR UPDATE
        """,
        {"key_version": key_version, "limit": limit},
    ).fetchall()


def lock_second_factors_under_older_keys(connection: Connection, key_version: int, limit: int) -> list[Row]:
    return connection.execute(
        """
        SELECT customer_id, secret, key_version FROM second_factors
        WHERE key_version < %(key_version)s ORDER BY customer_id LIMIT %(limit)s FOR UPDATE
        """,
        {"key_version": key_version, "limit": limit},
    ).fetchall()


def reseal_second_factors(connection: Connection, rows: Sequence[Row]) -> None:
    """Each row: `customer_id`, `secret`, `key_version`; the caller holds their locks. Nothing else of them changes."""
    connection.cursor().executemany(
        """
        UPDATE second_factors SET secret = %(secret)s, key_version = %(key_version)s
        WHERE customer_id = %(customer_id)s
        """,
        rows,
    )


def count_under_older_keys(connection: Connection, key_version: int) -> int:
    """Rows of all tables that hold something sealed."""
    query = """
        SELECT (SELECT count(*) FROM customers WHERE personal_key_version < %(key_version)s)
             + (SELECT count(*) FROM second_factors WHERE key_version < %(key_version)s) AS rows
        """
    row = connection.execute(query, {"key_version": key_version}).fetchone()
    assert row is not None
    return int(row["rows"])


def touch_customer(connection: Connection, customer_id: int) -> None:
    connection.execute(
        "UPDATE customers SET version = version + 1, updated_at = brokage_now() WHERE id = %(id)s", {"id": customer_id}
    )


def email_taken(connection: Connection, email: str, *, by_other_than: int) -> bool:
    query = "SELECT 1 FROM customers WHERE email = %(email)s AND id <> %(id)s"
    return connection.execute(query, {"email": email, "id": by_other_than}).fetchone() is not None


def tier_exists(connection: Connection, tier_code: str) -> bool:
    query = "SELECT 1 FROM customer_tiers WHERE tier_code = %(tier_code)s"
    return connection.execute(query, {"tier_code": tier_code}).fetchone() is not None


def list_tiers(connection: Connection) -> list[Row]:
    return connection.execute("SELECT * FROM customer_tiers ORDER BY priority, tier_code").fetchall()


def upsert_tier(connection: Connection, values: Row) -> None:
    connection.execute(
        """
        INSERT INTO customer_tiers (tier_code, tier_name, priority, rate_limit, fee_rate, fee_minimum)
        VALUES (%(tier_code)s, %(tier_name)s, %(priority)s, %(rate_limit)s, %(fee_rate)s, %(fee_minimum)s)
        ON CONFLICT (tier_code) DO UPDATE SET tier_name = excluded.tier_name, priority = excluded.priority,
            rate_limit = excluded.rate_limit, fee_rate = excluded.fee_rate, fee_minimum = excluded.fee_minimum
        """,
        values,
    )


def find_preferences(connection: Connection, customer_id: int) -> Row | None:
    query = "SELECT * FROM notification_preferences WHERE customer_id = %(id)s"
    return connection.execute(query, {"id": customer_id}).fetchone()


def list_preferences(connection: Connection, customer_ids: Sequence[int]) -> list[Row]:
    return connection.execute(
        """
        SELECT p.*, c.version AS customer_version
        FROM notification_preferences p JOIN customers c ON c.id = p.customer_id
        WHERE p.customer_id = ANY(%(ids)s) ORDER BY p.customer_id
        """,
        {"ids": list(customer_ids)},
    ).fetchall()


def update_preferences(connection: Connection, customer_id: int, values: Row) -> None:
    connection.execute(
        """
        UPDATE notification_preferences SET email_enabled = %(email_enabled)s, sms_enabled = %(sms_enabled)s,
               push_enabled = %(push_enabled)s, preferences = %(preferences)s::jsonb, updated_at = brokage_now()
        WHERE customer_id = %(customer_id)s
        """,
        {**values, "customer_id": customer_id},
    )


def insert_assignment(connection: Connection, broker_id: int, customer_id: int) -> bool:
    """Whether it is new."""
    query = (
        "INSERT INTO broker_customers (broker_id, customer_id) VALUES (%(broker_id)s, %(customer_id)s) "
        "ON CONFLICT DO NOTHING"
    )
    return connection.execute(query, {"broker_id": broker_id, "customer_id": customer_id}).rowcount == 1


def find_assignment(connection: Connection, broker_id: int, customer_id: int) -> Row | None:
    return connection.execute(
        "SELECT * FROM broker_customers WHERE broker_id = %(broker_id)s AND customer_id = %(customer_id)s",
        {"broker_id": broker_id, "customer_id": customer_id},
    ).fetchone()


def delete_assignment(connection: Connection, broker_id: int, customer_id: int) -> bool:
    query = "DELETE FROM broker_customers WHERE broker_id = %(broker_id)s AND customer_id = %(customer_id)s"
    return connection.execute(query, {"broker_id": broker_id, "customer_id": customer_id}).rowcount == 1


def list_assigned_customer_ids(connection: Connection, broker_id: int) -> list[int]:
    query = "SELECT customer_id FROM broker_customers WHERE broker_id = %(broker_id)s ORDER BY 1"
    return [row["customer_id"] for row in connection.execute(query, {"broker_id": broker_id}).fetchall()]


# Credentials and sessions


def find_credentials(connection: Connection, username: str) -> Row | None:
    return connection.execute(
        "SELECT id, username, password_hash, role, active FROM customers WHERE username = %(username)s",
        {"username": username},
    ).fetchone()


def find_credentials_by_id(connection: Connection, customer_id: int) -> Row | None:
    return connection.execute(
        "SELECT id, username, password_hash, role, active FROM customers WHERE id = %(id)s", {"id": customer_id}
    ).fetchone()


def set_password_hash(connection: Connection, customer_id: int, *, old_hash: str, new_hash: str) -> bool:
    """Whether the hash was still the one that was verified."""
    query = "UPDATE customers SET password_hash = %(new_hash)s WHERE id = %(id)s AND password_hash = %(old_hash)s"
    return connection.execute(query, {"id": customer_id, "old_hash": old_hash, "new_hash": new_hash}).rowcount == 1


def insert_refresh_token(connection: Connection, values: Row) -> None:
    connection.execute(
        """
        INSERT INTO refresh_tokens (digest, family_id, customer_id, expires_at, family_expires_at)
        VALUES (%(digest)s, %(family_id)s, %(customer_id)s,
                least(brokage_now() + make_interval(secs => %(lifetime_seconds)s), %(family_expires_at)s),
                %(family_expires_at)s)
        """,
        values,
    )


def lock_refresh_token(connection: Connection, digest: str) -> Row | None:
    """The token, with whether it has expired by the database's clock and whether its owner may still sign in."""
    return connection.execute(
        """
        SELECT r.*, r.expires_at <= brokage_now() AS expired, c.active, c.username
        FROM refresh_tokens r JOIN customers c ON c.id = r.customer_id
        WHERE r.digest = %(digest)s FOR UPDATE OF r
        """,
        {"digest": digest},
    ).fetchone()


def find_family(connection: Connection, digest: str) -> str | None:
    row = connection.execute(
        "SELECT family_id FROM refresh_tokens WHERE digest = %(digest)s", {"digest": digest}
    ).fetchone()
    return row["family_id"] if row else None


def mark_rotated(connection: Connection, digest: str) -> None:
    connection.execute(
        "UPDATE refresh_tokens SET rotated_at = brokage_now() WHERE digest = %(digest)s", {"digest": digest}
    )


def revoke_family(connection: Connection, family_id: str) -> int | None:
    """End a session; its customer, None when there is nothing left to end."""
    rows = connection.execute(
        """
        UPDATE refresh_tokens SET revoked_at = brokage_now()
        WHERE family_id = %(family_id)s AND revoked_at IS NULL RETURNING customer_id
        """,
        {"family_id": family_id},
    ).fetchall()
    return rows[0]["customer_id"] if rows else None


def revoke_all_sessions(connection: Connection, customer_id: int) -> None:
    connection.execute(
        "UPDATE refresh_tokens SET revoked_at = brokage_now() WHERE customer_id = %(id)s AND revoked_at IS NULL",
        {"id": customer_id},
    )


def delete_expired_tokens(connection: Connection, limit: int = 500) -> int:
    """Tokens of families that ended a day ago: reuse of any younger one is still noticed."""
    return connection.execute(
        """
        DELETE FROM refresh_tokens WHERE digest = ANY(ARRAY(
            SELECT digest FROM refresh_tokens WHERE family_expires_at < brokage_now() - interval '1 day'
            LIMIT %(limit)s))
        """,
        {"limit": limit},
    ).rowcount


def recent_failures(connection: Connection, account_digest: str, *, forgotten_after_seconds: int) -> int:
    row = connection.execute(
        """
        SELECT failures FROM sign_in_failures
        WHERE account_digest = %(digest)s AND last_failed_at > brokage_now() - make_interval(secs => %(seconds)s)
        """,
        {"digest": account_digest, "seconds": forgotten_after_seconds},
    ).fetchone()
    return row["failures"] if row else 0


def add_failure(connection: Connection, account_digest: str, *, forgotten_after_seconds: int) -> None:
    """Count a failure; old counts start again, and a few rows nobody will ask for again are deleted on the way."""
    parameters = {"digest": account_digest, "seconds": forgotten_after_seconds}
    connection.execute(
        """
        INSERT INTO sign_in_failures AS f (account_digest, failures) VALUES (%(digest)s, 1)
        ON CONFLICT (account_digest) DO UPDATE SET last_failed_at = brokage_now(), failures =
            CASE WHEN f.last_failed_at > brokage_now() - make_interval(secs => %(seconds)s)
                 THEN least(f.failures + 1, 1000) ELSE 1 END
        """,
        parameters,
    )
    connection.execute(
        """
        DELETE FROM sign_in_failures WHERE account_digest = ANY(ARRAY(
            SELECT account_digest FROM sign_in_failures
            WHERE last_failed_at < brokage_now() - make_interval(secs => %(seconds)s) LIMIT 20 FOR UPDATE SKIP LOCKED))
        """,
        parameters,
    )


def clear_failures(connection: Connection, account_digest: str) -> None:
    connection.execute("DELETE FROM sign_in_failures WHERE account_digest = %(digest)s", {"digest": account_digest})


def family_end(connection: Connection, seconds: int) -> datetime:
    row = connection.execute(
        "SELECT brokage_now() + make_interval(secs => %(seconds)s) AS moment", {"seconds": seconds}
    ).fetchone()
    assert row is not None
    moment: datetime = row["moment"]
    return moment


# API keys


def insert_api_key(connection: Connection, values: Row) -> Row:
    row = connection.execute(
        """
        INSERT INTO api_keys (id, customer_id, name, digest, scopes, expires_at)
        VALUES (%(id)s, %(customer_id)s, %(name)s, %(digest)s, %(scopes)s, %(expires_at)s) RETURNING *
        """,
        values,
    ).fetchone()
    assert row is not None
    return row


def count_live_api_keys(connection: Connection, customer_id: int) -> int:
    row = connection.execute(
        """
        SELECT count(*) AS n FROM api_keys WHERE customer_id = %(customer_id)s AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > brokage_now())
        """,
        {"customer_id": customer_id},
    ).fetchone()
    assert row is not None
    return int(row["n"])


def list_api_keys(connection: Connection, customer_id: int, *, after_id: str | None, limit: int) -> list[Row]:
    return connection.execute(
        """
        SELECT * FROM api_keys
        WHERE customer_id = %(customer_id)s AND (%(after_id)s::uuid IS NULL OR id > %(after_id)s::uuid)
        ORDER BY id LIMIT %(limit)s
        """,
        {"customer_id": customer_id, "after_id": after_id, "limit": limit},
    ).fetchall()


def find_live_api_key(connection: Connection, key_id: str) -> Row | None:
    """A key that is neither revoked nor expired by the database's clock, with its owner; `seconds_left` until it
    expires, null if it does not."""
    return connection.execute(
        """
        SELECT k.*, c.username, c.role, c.active, extract(epoch FROM k.expires_at - brokage_now())::int AS seconds_left
        FROM api_keys k JOIN customers c ON c.id = k.customer_id
        WHERE k.id = %(id)s AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > brokage_now())
        """,
        {"id": key_id},
    ).fetchone()


def revoke_api_key(connection: Connection, key_id: str, customer_id: int) -> bool | None:
    """Whether it was revoked by this; None when the customer has no such key."""
    row = connection.execute(
        """
        UPDATE api_keys SET revoked_at = coalesce(revoked_at, brokage_now())
        WHERE id = %(id)s AND customer_id = %(customer_id)s RETURNING revoked_at = brokage_now() AS now_revoked
        """,
        {"id": key_id, "customer_id": customer_id},
    ).fetchone()
    return bool(row["now_revoked"]) if row else None


# Second factors


def lock_second_factor(connection: Connection, customer_id: int) -> Row | None:
    query = "SELECT * FROM second_factors WHERE customer_id = %(id)s FOR UPDATE"
    return connection.execute(query, {"id": customer_id}).fetchone()


def put_second_factor(connection: Connection, customer_id: int, *, secret: str, key_version: int) -> None:
    """A secret that is not active yet, in place of an earlier one that never was."""
    connection.execute(
        """
        INSERT INTO second_factors AS s (customer_id, secret, key_version)
        VALUES (%(id)s, %(secret)s, %(key_version)s)
        ON CONFLICT (customer_id) DO UPDATE SET secret = excluded.secret, key_version = excluded.key_version
        WHERE NOT s.active
        """,
        {"id": customer_id, "secret": secret, "key_version": key_version},
    )


def take_code(connection: Connection, customer_id: int, step: int) -> None:
    """The code of this step was right: it is never taken again."""
    connection.execute(
        """
        UPDATE second_factors SET active = true, last_step = %(step)s, failures = 0 WHERE customer_id = %(id)s
        """,
        {"id": customer_id, "step": step},
    )


def add_code_failure(connection: Connection, customer_id: int, failures: int) -> None:
    connection.execute(
        "UPDATE second_factors SET failures = %(failures)s, failed_at = brokage_now() WHERE customer_id = %(id)s",
        {"id": customer_id, "failures": failures},
    )


def delete_second_factor(connection: Connection, customer_id: int) -> bool:
    """Whether there was an active one."""
    row = connection.execute(
        "DELETE FROM second_factors WHERE customer_id = %(id)s RETURNING active", {"id": customer_id}
    ).fetchone()
    return bool(row and row["active"])


def has_second_factor(connection: Connection, customer_id: int) -> bool:
    query = "SELECT 1 FROM second_factors WHERE customer_id = %(id)s AND active"
    return connection.execute(query, {"id": customer_id}).fetchone() is not None
