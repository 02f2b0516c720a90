"""What the experiments say when a config, a workdir or a result cannot be used.

Every message is one line for the person who asked: what was wrong, where, and what to do.
"""


class ExperimentError(ValueError):
    """A config, a workdir or a results file that cannot be used."""
