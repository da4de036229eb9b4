"""Failures of the local runtime that a person can act on: each is said in one line."""


class RuntimeFailure(Exception):
    """Ends a command with its message as the one line on stderr."""

    exit_code = 1


class CannotStart(RuntimeFailure):
    """A precondition of the start does not hold; nothing was started, nothing was changed."""

    exit_code = 2


class StartFailed(RuntimeFailure):
    """Something that was started did not become ready; what was started has been stopped again."""


class NoSystem(RuntimeFailure):
    """A command needs a running system and there is none."""

    exit_code = 2
