"""The one error tree. Each class says who acts; each message says what was given, what is
accepted and what to do. Foreign libraries' errors are turned into these at one border each.
"""

from __future__ import annotations

from typing import ClassVar


class LongtakeError(Exception):
    """Base of every error that Longtake raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).__name__

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; keyword arguments need their own way through pickle.
        return (_rebuild, (type(self), self.message, self.reason))


def _rebuild(cls: type[LongtakeError], message: str, reason: str) -> LongtakeError:
    return cls(message, reason=reason)


class InputError(LongtakeError):
    """One video cannot be used: record it with its reason and go on with the others."""

    exit_code = 3


class TransientError(LongtakeError):
    """The same call may succeed later: retry."""

    exit_code = 5


class ConfigError(LongtakeError):
    """The request itself is wrong: nothing has started, the user mends it."""

    exit_code = 4


class ResourceError(ConfigError):
    """The request is right but this machine or cluster cannot serve it."""

    exit_code = 5


class InvariantError(LongtakeError):
    """A promise of ours is broken: a bug, never the user's fault."""

    exit_code = 1
