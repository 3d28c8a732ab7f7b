"""A sequence classifier of transformers as a reward, with its own tokenizer where that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from trimtab.core.errors import RunError, UserError, suggestion
from trimtab.core.finished import center_of
from trimtab.core.memory import within_memory
from trimtab.core.model import compute_dtype, load_tokenizer, locate, most_read
from trimtab.core.reward import Group, RewardSetting, Score


class SequenceClassifier:
    """One logit, or the probability, of one label; less the center in its ``scores.json``.

    Where its tokenizer and chat template are the policy's, it reads the tokens that were sampled.
    Otherwise the prompt, as the data has it, and the completion are written anew with its own.
    """

    def __init__(
        self,
        name: str,
        setting: RewardSetting,
        *,
        label: str | int | None,
        probability: bool,
        prompted: bool,
    ) -> None:
        self.name, self.probability, self.prompted = name, probability, prompted
        self.policy = setting.policy
        self.model = _loaded(name, compute_dtype(setting.model, self.policy.device))
        self.model.to(self.policy.device).eval().requires_grad_(False)
        self.tokenizer = load_tokenizer(name)
        self.center = center_of(Path(locate(name)))
        self.micro_tokens = self.policy.micro_tokens
        self.label = _label(self.model.config, name, label)
        self.limit = most_read(self.model.config, self.tokenizer)
        self.as_sampled = prompted and (
            self.tokenizer.get_vocab() == setting.tokenizer.get_vocab()
            and self.tokenizer.chat_template == setting.tokenizer.chat_template
        )
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = self.tokenizer.pad_token_id

    def scores(self, groups: Sequence[Group]) -> list[Score]:
        """Of every completion, in order. One that is too long to be read whole has none."""
        texts = list(self._ids(groups))
        fits = [n for n, ids in enumerate(texts) if 0 < len(ids) <= self.limit]
        memory: Any = self
        values = within_memory(memory, lambda: self._values([texts[n] for n in fits]))
        found = dict(zip(fits, values, strict=True))
        return [
            Score(found[n]) if n in found else Score(None, why=self._fault(len(ids)))
            for n, ids in enumerate(texts)
        ]

    def halve(self) -> None:
        """Read half as many tokens at a time, after an out-of-memory."""
        if self.micro_tokens <= 1:
            raise RunError(f"one completion alone does not fit into memory beside {self.name}")
        self.micro_tokens //= 2

    def describe(self) -> Mapping[str, Any]:
        """What is read, and which label is the score."""
        return {
            "model": self.name,
            "label": self.model.config.id2label.get(self.label, self.label),
            "reads": "the sampled tokens" if self.as_sampled else "text, by its own tokenizer",
            "center": self.center,
        }

    def _fault(self, length: int) -> str:
        if length == 0:
            return "it is empty"
        return f"{length} tokens are too many for {self.name}, which reads {self.limit} at most"

    def _ids(self, groups: Sequence[Group]) -> Iterator[list[int]]:
        for group in groups:
            if self.as_sampled:
                for one in group.sampled:
                    yield [*one.prompt, *one.tokens]
            else:
                for text in group.completions:
                    yield self._written(group, text)

    def _written(self, group: Group, completion: str) -> list[int]:
        """Token ids of what this classifier is shown of a completion."""
        content = group.prompt if group.content is None else group.content
        if not self.prompted or isinstance(content, str):
            ids = self.tokenizer((content if self.prompted else "") + completion)["input_ids"]
            return list(ids)
        if self.tokenizer.chat_template is None:
            raise UserError(
                f"reward_model: {self.name} has no chat template, and the prompts are turns: set "
                "reads: completion, or give a classifier that was trained on conversations"
            )
        turns = [*content, {"role": "assistant", "content": completion}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def _values(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Texts of like length together, within ``micro_tokens``, padding included."""
        values = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
        while order:
            count = max(1, self.micro_tokens // len(texts[order[0]]))
            if self.model.config.pad_token_id is None:
                count = 1
            taken, order = order[:count], order[count:]
            for n, value in zip(taken, self._one([texts[n] for n in taken]).tolist(), strict=True):
                values[n] = value - self.center
        return values

    def _one(self, texts: Sequence[Sequence[int]]) -> Tensor:
        pad, width = self.model.config.pad_token_id or 0, max(map(len, texts))
        ids_NS = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in texts])
        seen_NS = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts])
        place = self.model.device
        logits_NL: Tensor = self.model(
            ids_NS.to(place), attention_mask=seen_NS.to(place)
        ).logits.float()
        if self.probability:
            several = self.model.config.problem_type == "multi_label_classification"
            alone = several or logits_NL.shape[1] == 1
            logits_NL = logits_NL.sigmoid() if alone else logits_NL.softmax(-1)
        return logits_NL[:, self.label].cpu()


def _loaded(name: str, dtype: torch.dtype) -> Any:
    """The classifier. A model that has no trained head is refused: its scores would be random."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            locate(name), dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"reward_model: {name!r} cannot be loaded: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"reward_model: {name!r} is no trained sequence classifier: it has no weights for "
            f"{', '.join(missing[:3])}"
        )
    return model


def _label(config: Any, name: str, label: str | int | None) -> int:
    """The number of the label that is the score."""
    names: dict[str, int] = {str(said): number for number, said in config.id2label.items()}
    listed = ", ".join(f"{number}: {said}" for said, number in names.items())
    if label is None and config.num_labels > 1:
        raise UserError(
            f"reward_model: {name} has several labels: choose one by output_label: {listed}"
        )
    if isinstance(label, str):
        if label not in names:
            raise UserError(
                f"reward_model: {name} has no label {label!r}.{suggestion(label, names)} "
                f"There is {listed}"
            )
        return names[label]
    if label is not None and not 0 <= label < config.num_labels:
        raise UserError(f"reward_model: {name} has no label {label}. There is {listed}")
    return label or 0
