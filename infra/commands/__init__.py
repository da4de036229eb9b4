"""The commands of `brokage`, a module for each group; each adds its own by `register(app)` and imports what it needs when
it is called, so that no command pays for another.

A command that needs the running system asks `infra.runtime.running.find_system`; none running ends it with exit 2.
"""
