from collections.abc import Sequence

from experiments import facts
from experiments.results import Row


def row(
    *, disturbed: int, of: int, commit: str | None = "c" * 40, notes: Sequence[str] = ()
) -> Row:
    share = disturbed / of
    return {
        "finished": "2026-01-01T00:00:00+00:00",
        "machine": {"processor": "abacus", "cores": 2},
        "versions": {"jax": "0.10.2"},
        "git": {"commit": commit, "dirty": commit and disturbed > 0},
        "measured": {
            "on_chip": "llc",
            "off_chip": "dram",
            "pair": "rotation",
            "dtype": "float32",
            "placement": "on-chip",
            "notes": list(notes),
            "latency": {
                "median_s": 0.1,
                "count": of if disturbed == of else of - disturbed,
                "disturbed_count": disturbed,
                "disturbed_share": share,
                "disturbed": share > 0.3,
            },
        },
    }


def test_disturbed_rows_are_told_of() -> None:
    calm, rough, worst = (row(disturbed=n, of=10) for n in (1, 5, 10))
    assert facts.warning([calm]) == ()
    (warning,) = facts.warning([calm, rough, worst])
    assert "over 30 % of the samples in 2 of 3 rows" in warning
    measured = dict(facts.tables([calm, rough, worst])[0].rows)
    assert measured["samples"] == "30"
    assert measured["disturbed by other processes"] == "16 of 30"
    assert measured["memories"] == "llc against dram by rotation"


def test_every_value_of_a_fact_is_listed() -> None:
    found = facts.tables(
        [row(disturbed=0, of=5), row(disturbed=1, of=5), row(disturbed=0, of=5, commit=None)]
    )
    measured, machine, versions = (dict(table.rows) for table in found)
    assert measured["commit"] == (
        "cccccccccccc, cccccccccccc with changes that are not committed, not from a git checkout"
    )
    assert machine == {"processor": "abacus", "cores": "2"}
    assert versions == {"jax": "0.10.2"}
    assert facts.tables([]) == ()


def test_notes_that_differ_in_numbers_alone_are_one_line() -> None:
    over = "llc is over capacity by {} MB, as was allowed"
    found = facts.tables(
        [
            row(disturbed=0, of=5, notes=[over.format("9.2")]),
            row(disturbed=0, of=5, notes=[over.format("1,150.8"), "a cache of 19.1 MB"]),
            row(disturbed=0, of=5, notes=[over.format("23.3"), "a cache of 19.1 MB"]),
            row(disturbed=0, of=5, notes=["one memory"]),
        ]
    )
    notes = found[1]
    assert notes.title == "Notes"
    assert notes.rows == (
        (
            "llc is over capacity by 9.2 to 1,150.8 MB, as was allowed",
            "3 of 4",
            "float32",
            "on-chip",
        ),
        ("a cache of 19.1 MB", "2 of 4", "float32", "on-chip"),
        ("one memory", "1 of 4", "float32", "on-chip"),
    )
    assert "notes" not in dict(found[0].rows)
    assert len(facts.tables([row(disturbed=0, of=5)])) == 3
