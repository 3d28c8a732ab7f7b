"""The sections of a run file that say how long and how to train: ``train`` and ``watch``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge
from pydantic import model_validator

from trimtab.core.options import Config, PositiveFloat, PositiveInt


class TrainConfig(Config):
    """The loop and the optimizer."""

    steps: PositiveInt | None = None
    """Batches of ``rows`` to collect; give this or ``epochs``."""

    epochs: PositiveInt | None = None
    """Passes over the data; one when neither is given."""

    rows: PositiveInt = 32
    """Rows (pairs, or samples) in the batch of a step, over all processes."""

    max_tries: PositiveInt = 4
    """How often rows are collected for one batch, where the objective keeps only some of them."""

    micro_tokens: PositiveInt | None = None
    """Tokens, padding included, in a forward: memory and speed, never the gradient.

    null is 512 on a CPU and 8192 on a GPU.
    """

    learning_rate: PositiveFloat = 1e-4
    """Of AdamW, at the top of the schedule."""

    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Of the learning rate, from transformers."""

    warmup: Annotated[float, Ge(0)] = 0.1
    """Share of the steps when below 1, else a number of steps."""

    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled (AdamW)."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm, for each role."""

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """States are float32, unless an 8-bit one is asked for."""

    seed: Annotated[int, Ge(0)] = 0
    """Of everything random: the order of rows, the adapter's start, dropout, samples."""

    checkpoint_every: PositiveInt = 50
    """Steps between two checkpoints."""

    keep: PositiveInt = 2
    """How many checkpoints stay on disk."""

    eval_every: PositiveInt | None = None
    """Steps between two evaluations; null evaluates at the start and at the end."""

    eval_samples: Annotated[int, Ge(0)] = 64
    """Held-out prompts that are answered in an evaluation; below 64 no KL is reported."""

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


class WatchConfig(Config):
    """A reward that nothing trains on, watched for over-optimisation of those that are trained on.

    Gao et al. 2022, arXiv:2210.10760: past some KL the proxy goes on rising while gold falls.
    Every evaluation is held beside the best one before it by the mean of the watched reward. It
    is over-optimised when the weighted sum of the rewards has risen since, and the watched one
    has fallen: the 95% interval of its difference, over the same held-out prompts, is below 0.
    Where nothing is trained on a reward (an offline run, or weights of 0) the fall alone says so.

    ``watch.json`` holds all evaluations with what was decided, ``best/`` the best policy,
    ``checkpoints/best/`` its checkpoint. ``trimtab plot`` draws both rewards over sqrt(KL).
    """

    reward: str
    """Label of the reward that is watched; its weight should be 0."""

    stop: bool = True
    """End the run when it is over-optimised; it counts as finished."""

    patience: PositiveInt = 2
    """So many evaluations in a row must be over-optimised.

    The best of many is partly luck, so the next ones look worse than they are. Of simulated runs
    with 12 evaluations of 64 prompts whose gold stays flat, 1 stops 56%, 2 stop 13%, 3 stop 4%.
    """

    result: Literal["best", "last"] = "best"
    """Which policy is the run's result: the best by the watched reward, or the last. The start
    counts: where no step was better, ``best`` is the start."""
