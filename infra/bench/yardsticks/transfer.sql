-- T: a transfer as a careful person writes it by hand: two conditional updates, two ledger entries, one transaction.
\set a random(1, 100000)
\set b random(1, 100000)
BEGIN;
UPDATE accounts SET balance = balance - 1 WHERE id = :a AND balance >= 1;
UPDATE accounts SET balance = balance + 1 WHERE id = :b AND balance >= 0;
INSERT INTO entries (account_id, amount) VALUES (:a, -1);
INSERT INTO entries (account_id, amount) VALUES (:b, 1);
COMMIT;
