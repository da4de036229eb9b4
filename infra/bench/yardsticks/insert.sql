-- I: an accepted order as a careful person writes it by hand: its row and its event in the outbox, one transaction.
\set customer random(1, 500)
BEGIN;
INSERT INTO orders (customer_id, asset_name, order_side, size, price, status)
VALUES (:customer, 'AAPL', 'BUY', 1, 100, 'PENDING_RESERVATION');
INSERT INTO outbox (payload)
VALUES ('{"type": "OrderCreated", "order_side": "BUY", "asset_name": "AAPL", "size": "1", "price": "100"}');
COMMIT;
