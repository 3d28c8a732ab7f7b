"""What a plugin's own tests want: the conformance kit, and batches made of literals."""

from trimtab.core.batches import sequences
from trimtab.core.checks_judge import check_judge
from trimtab.core.conformance import (
    CHECKS,
    ConformanceError,
    check_objective,
    parametrize_with_checks,
)
from trimtab.core.examples import Example, TablePolicy, TableReference, given

__all__ = [
    "CHECKS",
    "ConformanceError",
    "Example",
    "TablePolicy",
    "TableReference",
    "check_judge",
    "check_objective",
    "given",
    "parametrize_with_checks",
    "sequences",
]
