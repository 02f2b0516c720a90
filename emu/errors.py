"""What emu says when it is asked for something it cannot do.

Every message is one line for the person who asked: what was wrong, where, and what to do.
"""


class EmuError(ValueError):
    """A question that emu cannot answer as it was put."""


class CapacityError(EmuError):
    """A placement that needs more bytes than a memory has."""


def check_types(asked: str, **given: tuple[object, type]) -> None:
    """Raises EmuError where an argument is not of its type: two swapped, or a name for a thing."""
    for name, (value, of) in given.items():
        if not isinstance(value, of):
            found = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
            raise EmuError(f"{asked}: {name} must be an emu.{of.__name__}, not {found}")
