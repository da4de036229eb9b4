"""`brokage bench`: what the system does on this machine, as ratios to what the same Postgres does in the same run.

`run` is the whole measurement; `system` starts and holds the processes, `population` makes the customers, `client` and `load`
are the load generator, `yardsticks` asks pgbench, `counters` and `processes` count what was spent, `report` shows it.
"""
