"""Tokenizers and row files that the tests of data share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from trimtab import Demonstrations, Pairs
from trimtab.core.batches import Batch
from trimtab.core.config import DataConfig, RolloutConfig
from trimtab.core.model import load_tokenizer
from trimtab.core.source import Setting
from trimtab.plugins.sources.dataset import DatasetConfig, DatasetSource
from trimtab.plugins.sources.rows import BadRow

WORDS = [
    "<s>",
    "</s>",
    "<turn>",
    "<end>",
    "<unk>",
    "user",
    "assistant",
    "hi",
    "yes",
    "no",
    "maybe",
]
TEMPLATE = (
    "<s>{% for m in messages %}<turn> {{ m.role }} {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)


@cache
def smollm() -> Any:
    """SmolLM2's tokenizer: byte-level, no BOS added, EOS and padding are the same token."""
    return load_tokenizer("smollm2-135m-instruct")


def words(template: str = TEMPLATE) -> Any:
    """A word a token; adds a BOS; its end of turn is not its EOS."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<turn>", "<end>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def turns(*contents: str) -> list[dict[str, str]]:
    """A conversation that the user opens."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]


def answer(content: str) -> list[dict[str, str]]:
    """One turn of the assistant."""
    return [{"role": "assistant", "content": content}]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any] | bytes]) -> str:
    """Rows, and raw lines among them, as a file."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def opened(
    data: DataConfig, batch: type[Batch] = Pairs, seed: int = 0, tokenizer: Any = None
) -> DatasetSource:
    """A data set's source, ready to collect from."""
    source = DatasetSource(DatasetConfig())
    source.open(Setting(batch, data, tokenizer or smollm(), seed, RolloutConfig()))
    return source


def encoded(
    columns: Mapping[str, Any],
    batch: type[Batch] = Demonstrations,
    tokenizer: Any = None,
    **data: Any,
) -> Any:
    """One row's tokens, or its ``BadRow``."""
    from trimtab.plugins.sources.kinds import kind_of
    from trimtab.plugins.sources.tokens import Encoder

    kind = kind_of(batch)
    assert kind is not None
    encoder = Encoder(tokenizer or smollm(), DataConfig(train="a row", **data))
    try:
        return encoder.encode([kind.example(columns)])[0]
    except BadRow as fault:
        return fault
