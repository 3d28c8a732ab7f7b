"""The section ``model`` of a run file: the base, how it is held, and its adapter."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from trimtab.core.options import Config, LocalPath, PositiveFloat, PositiveInt, Share


class AdapterConfig(Config):
    """A LoRA adapter: Hu et al. 2021, arXiv:2106.09685."""

    rank: PositiveInt = 16
    """Rank of the update of each adapted weight."""

    alpha: PositiveFloat | None = None
    """The update is scaled by alpha / rank; null is twice the rank."""

    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which modules get an update: all linear layers but the head, or names such as q_proj."""

    dropout: Share = 0.0
    """Dropout before the update, in passes with gradient only. 0 keeps runs exactly comparable."""


class ModelConfig(Config):
    """The base, how it is held, and the adapter that is trained on it."""

    name: Annotated[str, LocalPath()] = "smollm2-135m-instruct"
    """A hub id, a local folder, or the embedded ``smollm2-135m-instruct``."""

    start: Annotated[str | None, LocalPath()] = None
    """Start from this adapter, and keep it as the reference.

    ``stages.NAME``, a run directory or a PEFT folder.
    """

    start_as: Literal["continue", "merge", "stack"] = "continue"
    """What becomes of ``start``.

    continue: the new adapter begins as a copy of it, and must have its shape.
    merge: it is added to the base's weights, which are quantized anew, and the new adapter begins
    at nothing; the log says how far that moves the policy.
    stack: it stays as it is below the new adapter, which begins at nothing.
    """

    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """How the frozen base is held (QLoRA: Dettmers et al. 2023, arXiv:2305.14314)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base and the computation; auto is bfloat16 on a GPU, float32 on a CPU.

    Adapters are always float32.
    """

    adapter: AdapterConfig | None = AdapterConfig()
    """null trains all weights, which needs ``quantization: none``."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    prefix_sharing: bool | None = None
    """Completions of one prompt share one copy of it; null measures whether that is exact here."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""

    @model_validator(mode="after")
    def _a_start_to_merge(self) -> Self:
        if self.start is None and self.start_as != "continue":
            raise ValueError(f"start_as: {self.start_as} wants a start: give model.start")
        return self

    @model_validator(mode="after")
    def _full_training_is_not_quantized(self) -> Self:
        if self.adapter is None and self.quantization != "none":
            raise ValueError(
                "adapter: null trains the base itself, and a quantized base cannot be trained: "
                "set quantization: none, or give an adapter"
            )
        return self
