"""What rounds of measurements say: medians, spreads, ratios, and whether the systems agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from trimtab.benchmarks.job import Dtype, Job, Result

AGREEMENT: dict[Dtype, float] = {"float32": 1e-5, "bfloat16": 0.05, "nf4": 0.01}
"""How far the first losses may lie apart, by their size. TRL casts adapters of nf4 to bfloat16."""

Round = dict[str, Result]
"""One measurement of every arm, taken one after another."""


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and the least and the greatest of them."""

    middle: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one number.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(middle=2.0, least=1.0, greatest=3.0)
        """
        return cls(median(values), min(values), max(values))

    def show(self, digits: int = 2) -> str:
        """For a table.

        >>> Spread.of([1.0, 2.0, 4.0]).show(1)
        '2.0 [1.0, 4.0]'
        """
        return f"{self.middle:.{digits}f} [{self.least:.{digits}f}, {self.greatest:.{digits}f}]"


def seconds(rounds: Sequence[Round], arm: str) -> Spread:
    """Of a step, over all rounds' steps."""
    return Spread.of([second for one in rounds for second in one[arm].seconds])


def peak(rounds: Sequence[Round], arm: str) -> Spread:
    """Bytes, over rounds."""
    return Spread.of([one[arm].peak for one in rounds])


def above(rounds: Sequence[Round], arm: str) -> Spread:
    """Bytes beyond those of the loaded model, over rounds."""
    return Spread.of([one[arm].peak - one[arm].loaded for one in rounds])


def speedup(rounds: Sequence[Round], arm: str, other: str) -> Spread:
    """How many of this arm's steps fit into one of the other's: each round's ratio of medians."""
    return ratio(rounds, seconds, other, arm)


def ratio(
    rounds: Sequence[Round],
    quantity: Callable[[Sequence[Round], str], Spread],
    arm: str,
    other: str,
) -> Spread:
    """This arm's quantity by the other's, in each round."""
    each = [[one] for one in rounds]
    return Spread.of([quantity(one, arm).middle / quantity(one, other).middle for one in each])


def disagreement(rounds: Sequence[Round], arm: str, other: str) -> float:
    """The largest relative difference of the first losses, which have one start and one batch."""
    return max(
        abs(one[arm].losses[0] - one[other].losses[0]) / abs(one[other].losses[0])
        for one in rounds
    )


def later_disagreement(rounds: Sequence[Round], arm: str, other: str) -> float:
    """The same over all steps, which each system took by itself."""
    return max(
        abs(mine - theirs) / abs(theirs)
        for one in rounds
        for mine, theirs in zip(one[arm].losses, one[other].losses, strict=True)
    )


def arms(rounds: Sequence[Round], system: str) -> list[str]:
    """A system's arms, in the order in which they were measured."""
    return [arm for arm, result in rounds[0].items() if result.job.system == system]


def alike(mine: Job, theirs: Job) -> bool:
    """Do the first losses have to agree?

    TRL estimates KTO's reference point from the rows of a micro-batch, and from smaller ones gets
    another loss; ours is that of the whole step.
    """
    whole = theirs.objective != "kto" or theirs.at_a_time == theirs.rows
    return mine.rows == theirs.rows and whole


def faults(rounds: Sequence[Round]) -> list[str]:
    """Which arms did not compute the same thing, so that their times cannot be compared."""
    jobs = {arm: result.job for arm, result in rounds[0].items()}
    found = []
    for mine in arms(rounds, "trimtab"):
        rivals = [arm for arm in arms(rounds, "trl") if jobs[arm].rows == jobs[mine].rows]
        checked = [arm for arm in rivals if alike(jobs[mine], jobs[arm])]
        if rivals and not checked:
            found.append(f"no arm of TRL's computes what {mine!r} does, so nothing was checked")
        tolerance = AGREEMENT[jobs[mine].dtype]
        for theirs in checked:
            apart = disagreement(rounds, mine, theirs)
            if not apart <= tolerance:
                found.append(
                    f"{mine!r} and {theirs!r} start with losses that differ by {apart:.1e}, "
                    f"more than {tolerance:.0e}"
                )
    return found
