"""An engine whose completions are known texts, which a model of two layers would never write."""

from __future__ import annotations

from worlds import BAD, GOOD

from trimtab import Config, hookimpl
from trimtab.core.engine import Completion, Engine

TEXTS = (*GOOD, *BAD)


class Words(Engine):
    """One of eight texts, by the row's first number and the length of the prompt."""

    name = "toys.words"
    options = Config

    def sample(self, prompts, uniform_NT, *, temperature):
        return [
            self._one(tuple(prompt), float(row_T[0]), len(row_T))
            for prompt, row_T in zip(prompts, uniform_NT, strict=True)
        ]

    def _one(self, prompt, number, most):
        text = TEXTS[(int(number * len(TEXTS)) + len(prompt)) % len(TEXTS)]
        ids = self.setting.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = (*ids, self.setting.tokenizer.eos_token_id)
        return Completion(prompt, tuple(tokens[:most]), len(tokens) > most)


@hookimpl
def provide_engines():
    return [Words]
