"""One error type for everything a user can mend."""


class InputError(ValueError):
    """Bad input: the message names the file or parameter, the item, and what to do."""
