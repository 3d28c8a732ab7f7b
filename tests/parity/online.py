"""TRL's ``GRPOTrainer`` and ``RLOOTrainer`` around the tiny model, given what was sampled and what
it was worth.

GRPO's ``rollout_func``, or what stands in place of RLOO's ``_generate``, returns our completions,
and the reward function our rewards; everything else is TRL's own: reference and old log-probs,
advantages, loss, backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parity.peer import TOLERANCE, Result
from tiny import DEVICE, relative
from torch import Tensor
from torch.testing import assert_close

from trimtab.benchmarks.trl_trainer import adapter
from trimtab.core.batches import Rollouts, sequences
from trimtab.core.columns import annotate, prepare
from trimtab.core.config import ModelConfig
from trimtab.core.gradient import accumulate
from trimtab.core.layout import rows_of
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base, load_tokenizer
from trimtab.core.objective import Objective
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

PADDING = EOS = 2
GROUPS, GROUP, LIMIT = 3, 4, 16

Weights = dict[str, Tensor]
"""Of the adapter, by PEFT's names without its own."""


def weights(model: LanguageModel) -> Weights:
    """A copy."""
    return {name: p.detach().clone() for name, p in _parameters(model).items()}


def nudged(old: Weights, size: float) -> Weights:
    """These, with noise of this size on B."""
    generator = torch.Generator().manual_seed(4)
    return {
        name: value + size * torch.randn(value.shape, generator=generator) * ("lora_B" in name)
        for name, value in old.items()
    }


def rollouts(noise: float = 0.0) -> Rollouts:
    """Groups of ragged completions, one of which did not end; rewards of the last are equal.

    ``noise`` is the standard deviation of what the sampler recorded as their log-probs.
    """
    generator = torch.Generator().manual_seed(3)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    prompts = [one for g in range(GROUPS) for one in [ids(4 + 3 * g)] * GROUP]
    completions = [[*ids(2 + (5 * i) % 11), EOS] for i in range(GROUPS * GROUP)]
    completions[1][-1] = 17
    reward_N = torch.randn(GROUPS * GROUP, generator=generator)
    reward_N[-GROUP:] = 1.0
    responses = sequences(prompts, completions)
    noise_NT = noise * torch.randn(responses.tokens_NT.shape, generator=generator)
    truncated_N = torch.zeros(GROUPS * GROUP, dtype=torch.bool)
    truncated_N[1] = True
    return Rollouts(
        replace(responses, maybe_sampled_NT=noise_NT),
        reward_N,
        torch.arange(GROUPS).repeat_interleave(GROUP),
        truncated_N,
        torch.arange(GROUPS * GROUP),
        LIMIT,
    )


def assert_gradients(one: Result, other: Result, factor: float = 1.0) -> None:
    """Every one, of which no one may be zero."""
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        assert relative(gradient * factor, other.gradients[name]) < TOLERANCE, name


def assert_same(one: tuple[Result, Tensor], other: tuple[Result, Tensor]) -> None:
    """Advantages, every gradient, and the loss by the size of the advantages that cancel in it."""
    assert_close(one[1], other[1], rtol=TOLERANCE, atol=TOLERANCE)
    assert abs(one[0].loss - other[0].loss) < TOLERANCE * float(other[1].abs().mean())
    assert_gradients(one[0], other[0])


@torch.no_grad()
def load(parameters: dict[str, Any], values: Weights) -> None:
    """Put these values there."""
    for name, value in values.items():
        parameters[name].copy_(value)
        parameters[name].grad = None


def ours(
    model: LanguageModel,
    objective: Objective,
    batch: Rollouts,
    old: Weights,
    new: Weights,
    cut: tuple[int, bool],
) -> tuple[Result, Tensor]:
    """Annotated by the old weights, trained from the new ones; and the advantages."""
    model.micro_tokens, model.share = cut
    load(_parameters(model), old)
    filled = annotate(model, AdapterOff(AdapterOffConfig()), batch, objective.needs)
    filled = prepare(objective, filled)
    load(_parameters(model), new)
    metrics = accumulate(model, objective, {"batch": filled})
    gradients = {name: p.grad.clone() for name, p in _parameters(model).items()}
    return Result(metrics["loss"], gradients), filled.columns["advantage_N"]


def trl(
    model: LanguageModel,
    folder: Path,
    batch: Rollouts,
    old: Weights,
    new: Weights,
    options: dict[str, Any],
    *,
    kind: str = "GRPO",
    sampler: bool = False,
) -> tuple[Result, Tensor]:
    """The same by TRL: two iterations, the second of which is from the new weights.

    Where the weights are the same there is one iteration, in which its GRPO computes no old
    log-probs. A reward that is NaN is given as None: the completion cannot be scored.
    ``sampler``: correct for our engine's log-probs as it does for vLLM's.
    """
    moves = old is not new
    made = _trainer(kind, model, folder, batch, {"num_iterations": 2 if moves else 1} | options)
    if sampler:
        made.use_vllm, made._last_loaded_step = True, made.state.global_step
    made.current_gradient_accumulation_steps = 1
    inputs, tokens = made.get_batch_samples(iter(made.get_train_dataloader()), 1, DEVICE)
    for at in (old, new) if moves else (old,):
        load(adapter(made), at)
        loss = made.training_step(made.model, inputs[0], tokens)
    gradients = {name: p.grad.clone() for name, p in adapter(made).items()}
    return Result(float(loss), gradients), _advantages(made, batch)


def _trainer(
    kind: str, model: LanguageModel, folder: Path, batch: Rollouts, options: dict[str, Any]
) -> Any:
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    rows = rows_of({"one": batch.responses})
    groups = batch.group_N.tolist()
    reward = {
        tuple(row.completion): None if math.isnan(r) else r
        for row, r in zip(rows, batch.reward_N.tolist(), strict=True)
    }

    def drawn(prompts: list[str]) -> list[int]:
        """Which rows; every prompt is the number of its group."""
        left = {name: [i for i, g in enumerate(groups) if g == int(name)] for name in prompts}
        return [left[name].pop(0) for name in prompts]

    def score(completion_ids: list[list[int]], **others: Any) -> list[float | None]:
        return [reward[tuple(ids)] for ids in completion_ids]

    config = model.roles.peft.peft_config["policy"]
    settings = {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": len(rows),
        "num_generations": groups.count(groups[0]),
        "max_completion_length": batch.limit,
        "report_to": [],
        "disable_tqdm": True,
    }
    return _fed(kind, batch, drawn)(
        model=load_base(
            ModelConfig(name=str(folder), quantization="none", dtype="float32"), DEVICE
        ),
        args=getattr(trl, f"{kind}Config")(**settings | options),
        reward_funcs=score,
        train_dataset=Dataset.from_list([{"prompt": str(g)} for g in sorted(set(groups))]),
        processing_class=load_tokenizer(str(folder)),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=config.r,
            lora_alpha=config.lora_alpha,
            target_modules=config.target_modules,
        ),
    )


def _fed(kind: str, batch: Rollouts, drawn: Callable[[list[str]], list[int]]) -> Any:
    """TRL's trainer with our completions for its own."""
    import trl

    rows, logps = rows_of({"one": batch.responses}), _logps(batch)

    def ids(order: list[int]) -> tuple[list[list[int]], list[list[int]]]:
        return [list(rows[i].prompt) for i in order], [list(rows[i].completion) for i in order]

    def roll_out(prompts: list[str], trainer: Any) -> dict[str, Any]:
        order = drawn(prompts)
        names = ("prompt_ids", "completion_ids", "logprobs")
        return dict(zip(names, (*ids(order), [logps[i] for i in order]), strict=True))

    if kind == "GRPO":
        return partial(trl.GRPOTrainer, rollout_func=roll_out)

    class Fed(trl.RLOOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: list[str]) -> Any:
            asked, answered = ids(drawn(prompts))
            return asked, answered, self.processing_class.batch_decode(answered)

    return Fed


def _advantages(trainer: Any, batch: Rollouts) -> Tensor:
    """TRL's, in the order of our rows: it shuffles them."""
    inputs = trainer._buffered_inputs[0]
    found = {}
    for ids, advantage in zip(inputs["completion_ids"], inputs["advantages"], strict=True):
        found[_unpadded(ids.tolist())] = float(advantage)
    rows = rows_of({"one": batch.responses})
    return torch.tensor([found[_unpadded(row.completion)] for row in rows])


def _logps(batch: Rollouts) -> list[list[float]]:
    s = batch.responses
    return [
        row[:length].tolist()
        for row, length in zip(s.sampled_NT, s.length_N.tolist(), strict=True)
    ]


def _unpadded(ids: Sequence[int]) -> tuple[int, ...]:
    """Without the padding, which is the EOS action too."""
    kept = list(ids)
    while kept[-1] == PADDING:
        kept.pop()
    return tuple(kept)


def _parameters(model: LanguageModel) -> dict[str, Any]:
    return model.roles.named_parameters("policy")
