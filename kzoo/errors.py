"""The errors that kzoo raises on purpose; the command line turns each into one sentence and an exit code."""

from __future__ import annotations


class KzooError(Exception):
    """Base of all errors with a sentence for the user: what is wrong, what was expected, what to do next."""

    exit_code = 1


class InputError(KzooError, ValueError):
    """What the user gave is wrong (exit code 2)."""

    exit_code = 2


class WorldError(KzooError, OSError):
    """The network or the disk failed (exit code 3)."""

    exit_code = 3


class CheckFailed(KzooError):
    """A check said no: something is stale, differs or does not hold (exit code 1)."""


class KzooWarning(UserWarning):
    """Something that the user should know although there is an answer; the command line prints it to stderr."""
