"""Backup and restore of a local run: one causal cut over the Postgres cluster and the documents, and every moment between two.

`cut` is the moment; `take` makes a backup of it; `repository` keeps scheduled ones; `restore` and `verify` go the way back;
`repair` heals stores that are of different moments.
"""
