"""Loading a base: by hub id, by folder, or the embedded one; quantized as the run file says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from trimtab.core import embedded
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError


def locate(name: str) -> str:
    """What transformers should load for a model's name."""
    if name == embedded.NAME:
        return str(embedded.converted())
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise UserError(f"the model {name!r} is no folder")
    return str(Path(name).expanduser()) if name.startswith("~") else name


def most_read(config: Any, tokenizer: Any) -> int:
    """The most tokens that a model reads, by its text config and its tokenizer."""
    most = int(tokenizer.model_max_length)
    places: int | None = getattr(config, "max_position_embeddings", None)
    return min(most, places) if places else most


def device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def compute_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The dtype that ``auto`` stands for: float32 on a CPU, so that runs are exact there."""
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def held_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The dtype of the base's weights: float32 where they are trained themselves.

    In bfloat16 an update of a small learning rate is below the spacing of most weights.
    """
    return torch.float32 if config.adapter is None else compute_dtype(config, device)


class Sized(Protocol):
    """Options that say how many tokens are read at a time."""

    @property
    def micro_tokens(self) -> int | None:
        """null is as many as suit the device."""


def micro_tokens(config: Sized, device: torch.device) -> int:
    """What ``null`` stands for: a CPU is as fast with few tokens at a time, a GPU is not."""
    return config.micro_tokens or (512 if device.type == "cpu" else 8192)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    return _loaded(
        name,
        lambda path: AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code),
    )


def load_base(config: ModelConfig, device: torch.device, *, classifier: bool = False) -> Any:
    """A causal language model, frozen, in train mode, with every dropout at p = 0.

    With ``classifier``, a model that scores whole sequences with one number, its head not trained.

    It must never see ``eval()``: in that mode the first forward of a 4-bit module on a CPU repacks
    its weight, and its product has no gradient from then on, without any error.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    labels = {"num_labels": 1} if classifier else {}
    model = _loaded(
        config.name,
        lambda path: kind.from_pretrained(
            path,
            **labels,
            dtype=held_dtype(config, device),
            quantization_config=_quantization(config, device),
            device_map={"": device},
            attn_implementation="sdpa",
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,  # other formats are pickles
        ),
    )
    model.train()
    model.requires_grad_(False)
    _without_dropout(model)
    set_checkpointing(model, config.gradient_checkpointing)
    return model


def checkpoints(model: Any) -> bool:
    """Does the model recompute its activations in the backward pass?"""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def set_checkpointing(model: Any, on: bool) -> None:
    """Turn recomputation on or off; non-reentrant, so that adapters and autocast are seen."""
    enable = _either(model, "activation_checkpointing_enable", "gradient_checkpointing_enable")
    disable = _either(model, "activation_checkpointing_disable", "gradient_checkpointing_disable")
    if on:
        enable({"use_reentrant": False})
    elif checkpoints(model):
        disable()


def _either(model: Any, name: str, older: str) -> Any:
    """transformers 5.2x renamed these methods."""
    return getattr(model, name, None) or getattr(model, older)


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of every weight as it is held: what adapters and heads are put on it is left out."""
    state = {name.replace(".base_layer.", "."): held for name, held in model.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        ours = "lora_" in name or name.startswith("score.")
        if ours or not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _loaded(name: str, load: Any) -> Any:
    try:
        return load(locate(name))
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the model {name!r} cannot be loaded: {error}\n"
            f"It should be a hub id, a local folder, or {embedded.NAME!r}."
        ) from error


def _quantization(config: ModelConfig, device: torch.device) -> Any:
    from transformers import BitsAndBytesConfig

    if config.quantization == "none":
        return None
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(config, device),
    )


def _without_dropout(model: torch.nn.Module) -> None:
    """Set every p to 0: modules', and the attention's that attention modules keep as a number."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
