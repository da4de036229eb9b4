-- The smallest durable thing: one row, one commit. Latencies are given as multiples of its p99.
INSERT INTO entries (account_id, amount) VALUES (1, 1);
