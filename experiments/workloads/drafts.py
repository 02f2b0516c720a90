"""How many tokens a step keeps of those that were drafted for it, by what is written.

Each draft is taken to be accepted with the same probability a where the one before it was, so that
a step with k drafts keeps, its own token among them,

    kept(a, k) = 1 + a + a² + … + a^k = (1 - a^(k+1)) / (1 - a)

(Leviathan et al., arXiv 2211.17192). What is published is what was kept of some number of drafts;
from that a is found, and from it what other numbers of drafts keep.
"""

from scipy.optimize import brentq

from experiments.errors import ExperimentError
from experiments.workloads.workload import Workload

PUBLISHED = 5  # drafts of which the workloads' files say how many tokens a step kept


def kept(acceptance: float, drafted: int) -> float:
    """Tokens that a step yields, at least 1."""
    return sum(acceptance**n for n in range(drafted + 1))


def acceptance(tokens: float, drafted: int) -> float:
    """The probability with which so many drafts keep so many tokens.

    Raises ExperimentError where they cannot.
    """
    if not 1 <= tokens <= drafted + 1:
        raise ExperimentError(
            f"{drafted} drafts keep from 1 to {drafted + 1} tokens, not {tokens:g}"
        )
    return float(brentq(lambda a: kept(a, drafted) - tokens, 0.0, 1.0))


def kept_of(of: Workload, drafted: int) -> float:
    """Tokens that a step yields. Raises ExperimentError where the workload does not say."""
    if not drafted:
        return 1.0
    return kept(acceptance(of.figure(f"kept_of_{PUBLISHED}_drafts"), PUBLISHED), drafted)
