"""The one exception that means "the user can mend this"."""


class InputError(Exception):
    """Wrong input or configuration: the message says in one line what is wrong and how to mend it.

    Entry points print the message alone and exit with status 2 (`debug=true` shows the traceback).
    """
