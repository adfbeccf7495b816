"""Errors that are meant for the person at the terminal: one line, both values, what to do."""


class GLMError(Exception):
    """A problem the user can fix. Scripts print its one line and end with exit code 1."""


class UsageError(GLMError):
    """A wrong argument on the command line. Scripts print its one line and end with exit code 2."""
