"""What roseinfer raises at a user: one line that says what is wrong and what to do.

Nothing else is meant to reach a user. The command line prints the message and exits with `exit_code`;
a library user catches `RoseinferError`.
"""


class RoseinferError(Exception):
    """A run that failed. The message is one clear line."""

    exit_code = 1


class UsageError(RoseinferError):
    """A wrong call: an option, a config key or a combination that cannot work."""

    exit_code = 2


class ModelError(RoseinferError):
    """A model that cannot be found, read or run."""


class TraceError(RoseinferError):
    """A file that is no readable trace."""
