"""The same saga written the way it is usually written, measured beside ours on the same servers.

`python -m benchmarks` measures; `models` and `steps` are the saga with the ORM, one transaction a step; `dramatiq_peer` sends each
step as a dramatiq message, `dbos_peer` runs them as a DBOS Transact workflow. Needs the extra `bench`.
"""
