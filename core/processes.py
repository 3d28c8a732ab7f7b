"""The processes of a run. accelerate does the talking; here is only what the loop asks of it.

Every process holds the whole batch, runs the model on its share of the rows, and adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from trimtab.core.errors import RunError, UserError, Waits

T = TypeVar("T")


class Processes:
    """One process, alone."""

    rank = 0
    count = 1

    @property
    def main(self) -> bool:
        """Does this one write files?"""
        return self.rank == 0

    @property
    def suffix(self) -> str:
        """For names of what each process writes for itself; nothing for the main one."""
        return f"-{self.rank}" if self.rank else ""

    def share(self, rows: int) -> Tensor:
        """Row numbers of this process: every count-th."""
        return torch.arange(self.rank, rows, self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes."""

    def gather(self, value: Any) -> list[Any]:
        """Everyone's small object, in order of rank."""
        return [value]

    def all_of(self, work: Callable[[], T]) -> list[T]:
        """What each did, in order of rank. Where one's work cannot be done, all of them stop."""
        done: list[T] = []
        failed: UserError | RunError | None = None
        try:
            done = [work()]
        except (UserError, RunError) as error:
            failed = error
        shares = self.gather((done, None if failed is None else (_kind(failed), str(failed))))
        if failed is not None:
            raise failed
        for _, failure in shares:
            if failure is not None:
                kind, said = failure
                raise kind(said)
        return [one for (one,), _ in shares]

    def wait(self) -> None:
        """Until all are here."""


def _kind(error: UserError | RunError) -> type[Exception]:
    """What another process can make of its text."""
    return next(kind for kind in (Waits, UserError, RunError) if isinstance(error, kind))


class Accelerated(Processes):
    """Several processes, as ``accelerate launch`` or ``torchrun`` started them."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank = accelerator.process_index
        self.count = accelerator.num_processes

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        moved = tensor.to(self.accelerator.device)
        return self.accelerator.reduce(moved, reduction="sum").to(tensor.device)  # type: ignore[no-any-return]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """One exchange for all gradients. A process without rows of its own adds zeros.

        A parameter that has none in any process keeps none: 1 for each that has is summed too.
        """
        trained = list(parameters)
        if not trained:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        there = torch.tensor([p.grad is not None for p in trained]).to(grads[0])
        total = self.sum(torch.cat([*(grad.flatten() for grad in grads), there]))
        *parts, count = total.split([*(grad.numel() for grad in grads), len(trained)])
        for parameter, grad, part, n in zip(trained, grads, parts, count.tolist(), strict=True):
            parameter.grad = grad.copy_(part.view_as(grad)) if n else None

    def gather(self, value: Any) -> list[Any]:
        """Everyone's small object, in order of rank."""
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()


def processes() -> Processes:
    """Those of this launch: alone, unless a launcher started several."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import Accelerator

    return Accelerated(Accelerator(cpu=not torch.cuda.is_available()))
