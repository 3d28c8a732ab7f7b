"""TRL's own trainers, fed with tokens: parity is tested and speed is measured through these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.benchmarks.job import Job
from trimtab.benchmarks.start import LEARNING_RATE


def trainer(
    kind: str,
    base: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    lora: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """One of TRL's trainers, that takes the rows as they are.

    It makes the adapter itself: given one, it would take a copy of it as DPO's reference, and not
    the base with its adapter off. ``losses`` holds the loss of every micro-batch.

    Args:
        kind: ``DPO``, ``SFT``, ``KTO`` or ``Reward``.
        base: the model without an adapter; for ``Reward`` with a head ``score``.
        tokenizer: the model's.
        rows: what the trainer's tokenization would have made.
        lora: of ``LoraConfig``.
        options: of ``DPOConfig`` and its like.
    """
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    class Fed(getattr(trl, f"{kind}Trainer")):  # type: ignore[misc]
        def __init__(self, **arguments: Any) -> None:
            self.losses: list[float] = []
            super().__init__(**arguments)

        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            """DPO's and KTO's want text. SFT's leaves tokens alone, and makes labels of masks."""
            if kind in ("DPO", "KTO"):
                return dataset
            return super()._prepare_dataset(dataset, *arguments)

        def training_step(self, *arguments: Any, **more: Any) -> Any:
            loss = super().training_step(*arguments, **more)
            self.losses.append(float(loss))
            return loss

    scores = kind == "Reward"
    return Fed(
        model=base,
        args=getattr(trl, f"{kind}Config")(**options),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="SEQ_CLS" if scores else "CAUSAL_LM",
            modules_to_save=["score"] if scores else None,
            **lora,
        ),
    )


def adapter(trainer: Any) -> dict[str, nn.Parameter]:
    """The trained weights, by PEFT's names without the adapter's own."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }


def defaults(job: Job, folder: Path) -> dict[str, Any]:
    """Options of TRL's defaults, but for what makes any comparison one."""
    if job.rows % job.at_a_time:
        raise ValueError(
            f"{job.rows} rows a step cannot be cut into micro-batches of {job.at_a_time}"
        )
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": job.dtype == "bfloat16",
        "per_device_train_batch_size": job.at_a_time,
        "gradient_accumulation_steps": job.rows // job.at_a_time,
        "max_steps": job.warmup + job.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    if job.checkpointing is not None:
        options |= {"activation_checkpointing": job.checkpointing, "gradient_checkpointing": None}
    return options
