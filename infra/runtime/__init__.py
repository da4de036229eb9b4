"""The local runtime: a data directory, the processes of a run and the supervisor that keeps them alive."""
