"""Proof of the contract's invariants on the stores as they are, beside the running system.

Each module holds a group of invariants and knows nothing of the others; `run.CHECKS` lists them all. What must hold at any
instant is read in one snapshot; what must hold at rest is looked at again until it has stood long enough (`rest.py`). Memory
is bounded whatever the number of rows (`streams.py`). Nothing is changed, but that a read of the audit trail is itself
put on record.
"""
