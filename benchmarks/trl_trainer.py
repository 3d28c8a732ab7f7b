"""TRL's own trainers, fed with tokens: parity is tested and speed is measured through these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def trainer(
    kind: str,
    base: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    lora: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """A ``DPOTrainer`` or ``SFTTrainer`` that takes the rows as they are.

    It makes the adapter itself: given one, it would take a copy of it as DPO's reference, and not
    the base with its adapter off. ``losses`` holds the loss of every micro-batch.

    Args:
        kind: ``DPO`` or ``SFT``.
        base: the model without an adapter.
        tokenizer: the model's.
        rows: what the trainer's tokenization would have made.
        lora: of ``LoraConfig``.
        options: of ``DPOConfig`` or ``SFTConfig``.
    """
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    class Fed(getattr(trl, f"{kind}Trainer")):  # type: ignore[misc]
        def __init__(self, **arguments: Any) -> None:
            self.losses: list[float] = []
            super().__init__(**arguments)

        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            """SFT's leaves tokens alone, and makes labels of the masks; DPO's wants text."""
            return dataset if kind == "DPO" else super()._prepare_dataset(dataset, *arguments)

        def training_step(self, *arguments: Any, **more: Any) -> Any:
            loss = super().training_step(*arguments, **more)
            self.losses.append(float(loss))
            return loss

    return Fed(
        model=base,
        args=getattr(trl, f"{kind}Config")(**options),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )


def adapter(trainer: Any) -> dict[str, nn.Parameter]:
    """The trained weights, by PEFT's names without the adapter's own."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }
