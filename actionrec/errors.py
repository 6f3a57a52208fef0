"""Errors that reach the user as one sentence: what went wrong, where, and what to do about it."""


class ActionrecError(Exception):
    """Something of the input failed. The command line prints the message and exits with 1."""


class UsageError(ActionrecError):
    """The request itself can't work, whatever the input. The command line exits with 2."""
