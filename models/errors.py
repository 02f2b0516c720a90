"""What models says when a file, a name or a prompt cannot be used.

Every message is one line for the person who asked: what was wrong, where, and what to do.
"""


class ModelError(ValueError):
    """A model, a file or a prompt that cannot be used."""
