"""The one exception that a command line shows as a single line instead of a traceback."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and how to mend it. Commands print it to stderr
    and exit with status 2 (`cli.app`); library callers catch it like any other exception.
    """
