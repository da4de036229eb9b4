"""One module per group of commands, found by name: each has `register(app)` and imports what it needs inside.

A command that needs the running system calls `infra.runtime.system.find(data_dir)`; none running ends it with exit 2.
"""
