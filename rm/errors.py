"""Exceptions whose message is all that a user needs: entry points print it without a traceback."""


class InputError(Exception):
    """Wrong input or configuration: the message says in one line what is wrong and how to mend it.

    Entry points print the message alone and exit with status 2 (`debug=true` shows the traceback).
    """


class InterruptedRunError(Exception):
    """A run that something outside stopped: a full disk, a killed rank.

    The message says in one line what it was and what to do; entry points print it alone and exit
    with status 1. The same command goes on afterwards.
    """
