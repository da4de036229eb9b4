-- The tables of the yardsticks, made anew for every run in a database of their own. Without autovacuum: it would work on them while
-- the system is measured.
CREATE TABLE accounts (id int PRIMARY KEY, balance numeric(38, 18) NOT NULL) WITH (fillfactor = 50, autovacuum_enabled = off);
INSERT INTO accounts SELECT number, 1000000000 FROM generate_series(1, 100000) AS number;
CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int NOT NULL,
    amount numeric(38, 18) NOT NULL
) WITH (autovacuum_enabled = off);
CREATE TABLE orders (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    customer_id bigint NOT NULL,
    asset_name text NOT NULL,
    order_side text NOT NULL,
    size numeric(38, 18) NOT NULL,
    price numeric(38, 18) NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_enabled = off);
CREATE TABLE outbox (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_enabled = off);
VACUUM ANALYZE;
CHECKPOINT;
