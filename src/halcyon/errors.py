"""The errors that are shown to a person rather than as a traceback, and the exit codes.

Exit codes of every script: 0 done, 1 a bug or an unforeseen failure (traceback shown),
2 bad input (one message, no traceback), 75 interrupted in good order: run it again and it
goes on (the number is EX_TEMPFAIL of sysexits.h).
"""

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_RESUME = 75


class InputError(Exception):
    """Something the user gave is wrong.

    The message names the file, the key and the value, and says what was expected.
    """


class Interrupted(Exception):  # noqa: N818 - not an error
    """The job was asked to stop (SIGTERM, or its time is nearly up) and saved its state."""
