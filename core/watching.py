"""What a run does about what its watch says: it keeps the best, stops, and leaves the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab.core.checkpoint import Checkpoint, DamagedCheckpoint, newest, rotate, verify
from trimtab.core.errors import UserError
from trimtab.core.files import remove_leftovers, write_json, write_whole
from trimtab.core.finish import save_role
from trimtab.core.policy import POLICY
from trimtab.core.saving import restore_roles, save
from trimtab.core.training import WatchConfig
from trimtab.core.watch import BEST, WATCH, Answer, Watch, told

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.reference_cache import ReferenceCache
    from trimtab.core.run import Run


class Watching:
    """The watch of a run under way, and the files that it keeps."""

    def __init__(
        self, run: Run, parts: Parts, cache: ReferenceCache | None, section: WatchConfig
    ) -> None:
        self.run, self.parts, self.cache, self.section = run, parts, cache, section
        self.watch = Watch(section, run.file.reward, trained=not parts.source.fixed)
        run.processes.wait()  # the logs have been cut back to the checkpoint by now
        self.watch.read(run.directory.records("evals"), run.directory.records("samples"))

    @classmethod
    def begin(cls, run: Run, parts: Parts, cache: ReferenceCache | None) -> Watching | None:
        """From the logs as they stand; None where the run file has no ``watch``."""
        section = run.file.watch
        if section is None:
            return None
        if POLICY not in parts.model.roles.names:
            raise UserError(
                f"watch: the objective {parts.objective.name!r} trains no policy, so no answers "
                f"are sampled that {section.reward} could score: leave watch out"
            )
        if parts.source.held_out() is None and not parts.source.prompts():
            raise UserError(
                "watch: no rows are held out, so there is no answer to judge: give data.eval, or "
                "a data.holdout above 0"
            )
        for reward in run.file.reward:
            if (reward.label or reward.name) == section.reward and reward.weight:
                run.note(
                    f"watch: {section.reward} has weight {reward.weight:g}, so it is trained on "
                    "too and says less about over-optimisation: watch a reward of weight 0"
                )
        return cls(run, parts, cache, section)

    @property
    def stopped(self) -> bool:
        """Is this the end of the run?"""
        return self.watch.stopped is not None

    def see(self, evaluation: Mapping[str, Any], answers: Sequence[Answer]) -> None:
        """After each evaluation, which is in the logs."""
        look = self.watch.see(evaluation, answers)
        if self.watch.best is None:
            why = next(
                (f". Of one it said: {each['why']}" for each in answers if "why" in each), ""
            )
            raise UserError(
                f"watch: no held-out answer could be scored by {self.section.reward} at step "
                f"{look.step}: give data.eval, or see to that reward{why}"
            )
        if look.step == self.watch.best.step:
            save(self.run, self.parts, self.cache, look.step, best=True)
        if self.run.processes.main:
            write_json(self.run.directory.path / WATCH, self.watch.document())
        figures = told(look, self.section.reward)
        if self.stopped:
            self.run.note(f"watch: over-optimised, so step {look.step} is the last: {figures}")
        elif look.over:
            row, patience = self.watch.in_a_row, self.section.patience
            self.run.note(f"watch: over-optimised, {row} of {patience} in a row: {figures}")

    def settle(self, last: int) -> None:
        """Write ``best/``, and let the trained weights be those of the run's result."""
        run, parts, best = self.run, self.parts, self.watch.best
        assert best is not None
        checkpoints = run.directory.checkpoints
        remove_leftovers(checkpoints / BEST)
        kept = Checkpoint(best.step, checkpoints / BEST / f"step-{best.step}")
        try:
            verify(kept.path)
        except DamagedCheckpoint as damage:
            run.note(f"watch: {damage}. The run's result is its last policy, of step {last}")
            write_json(run.directory.path / WATCH, self.watch.document(last))
            return
        rotate(checkpoints / BEST, best.step, 1)
        restore_roles(parts, kept)
        first = parts.model.roles.names[0]
        write_whole(run.directory.path / BEST, partial(save_role, run, parts, first))
        result = best.step
        if self.section.result == "last":
            final, _ = newest(checkpoints)
            assert final is not None and final.step == last
            restore_roles(parts, final)
            result = last
        write_json(run.directory.path / WATCH, self.watch.document(result))
        run.note(f"watch: {self._of(result, last)}")

    def _of(self, result: int, last: int) -> str:
        """Which step the result is of, and why."""
        best, label = self.watch.best, self.section.reward
        assert best is not None
        if self.section.result == "last":
            return f"the result is of the last step, {last}; {BEST}/ is of step {best.step}"
        if result == last:
            return f"the result is of the last step, {last}, the best by {label}"
        if result == 0:
            return (
                f"NO STEP WAS BETTER THAN THE START by {label} ({best.gold:.4g}): the result is "
                f"the policy that the run started from, and nothing of its {last} steps"
            )
        return (
            f"the result is of step {result}, the best by {label} ({best.gold:.4g}), not of the "
            f"last, {last}"
        )
