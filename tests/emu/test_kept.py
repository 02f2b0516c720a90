"""Values are kept for the very objects that they were made for, and no longer than those live."""

from emu.kept import Kept


class Thing:
    """Equal to every other."""

    def __eq__(self, other):
        return isinstance(other, Thing)

    __hash__ = None


def test_a_value_is_that_of_these_very_objects():
    kept, one, other = Kept(), Thing(), Thing()
    assert kept.find(one, other) is None
    assert kept.keep("made", one, other) == "made"
    assert kept.find(one, other) == "made"
    assert kept.find(other, one) is None
    assert kept.find(one, other, by=1) is None


def test_a_value_is_not_anothers_that_has_the_same_id():
    kept, one, other = Kept(), Thing(), Thing()
    kept.keep("made", one)
    ((key, value),) = kept._values.items()
    kept._values[key[0], id(other)] = value  # as if `one` had gone unnoticed
    assert kept.find(other) is None
    assert kept.find(one) == "made"


def test_it_goes_with_the_first_of_them():
    kept, one, other = Kept(), Thing(), Thing()
    kept.keep("made", one, other)
    kept.keep("also", other)
    del one
    assert kept.find(other) == "also"
    assert len(kept._values) == 1
    del other
    assert not kept._values
