"""A small MongoDB wire server for local runs and tests: documents in one SQLite file, loopback only.

It is NOT MongoDB and never meant for production: no replication, no authentication, one writer at a time. What it
does, it does as MongoDB does, and durably; every command, option, stage or operator outside its list is an error, so
that nothing passes here that would behave differently on a real server. Run it with
`python -m infra.mongo_server --data-file PATH --port N`.
"""
