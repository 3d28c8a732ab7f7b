"""``check_objective``: does an objective keep the contract? For your own test suite.

@parametrize_with_checks([Mine(MyConfig()), Mine(MyConfig(beta=0.5))])
def test_conforms(objective, check):
    check(objective)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trimtab.core import checks, checks_gradient, checks_online
from trimtab.core.checks import ConformanceError
from trimtab.core.objective import Objective

__all__ = ["CHECKS", "ConformanceError", "check_objective", "parametrize_with_checks"]

CHECKS: tuple[Callable[[Objective], None], ...] = (
    checks.check_name_and_source,
    checks.check_config_is_strict_and_described,
    checks.check_terms_are_complete,
    checks.check_loss_is_unreduced,
    checks.check_before_names_sequences,
    checks.check_needs_are_used,
    checks_gradient.check_microbatch_invariance,
    checks_gradient.check_process_invariance,
    checks_gradient.check_row_order,
    checks_gradient.check_masked_tokens_get_no_gradient,
    checks_gradient.check_padding_invariance,
    checks_gradient.check_small_batches_are_finite,
    checks_gradient.check_half_precision_is_close,
    checks_gradient.check_gradient_is_not_negligible,
    checks.check_metrics_come_from_the_batch,
    checks.check_batch_is_not_written_to,
    checks.check_prepare_is_deterministic,
    checks.check_keep_selects_rows,
    checks.check_state_is_json,
    checks.check_pickles,
    checks_online.check_roles_are_apart,
    checks_online.check_minibatches_are_finite,
    checks_online.check_state_is_all_that_moves,
    checks_online.check_groups_may_be_ragged,
    checks_online.check_temperature_is_applied_once,
    checks_online.check_sampler_has_limited_influence,
    checks_gradient.check_soft_labels,
    checks_gradient.check_pushes_the_right_way,
)
"""In the order in which a first failure says most."""


def check_objective(
    objective: Objective, expected_failures: Mapping[str, str] | None = None
) -> list[str]:
    """Run every check; raise the first failure that ``expected_failures`` has no reason for.

    Returns the names of the checks that failed as expected.
    """
    failed = []
    for check in CHECKS:
        try:
            check(copy.deepcopy(objective))
        except ConformanceError:
            if check.__name__ not in (expected_failures or {}):
                raise
            failed.append(check.__name__)
    return failed


def parametrize_with_checks(objectives: Iterable[Objective]) -> Any:
    """A pytest decorator: one test for each objective and check."""
    import pytest

    cases = [
        pytest.param(one, check, id=f"{one.name}-{check.__name__}")
        for one in objectives
        for check in CHECKS
    ]
    return pytest.mark.parametrize("objective, check", cases)
