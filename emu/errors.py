"""What emu says when it is asked for something it cannot do.

Every message is one line for the person who asked: what was wrong, where, and what to do.
"""


class EmuError(ValueError):
    """A question that emu cannot answer as it was put."""


class CapacityError(EmuError):
    """A placement that needs more bytes than a memory has."""
