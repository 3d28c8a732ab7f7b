"""Examples as token ids: what is prompt, what is completion, and which tokens are trained."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal, TypeVar, cast

from jinja2 import TemplateError

from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.formats import Example
from trimtab.plugins.sources.messages import Message, Rendered, plain, render
from trimtab.plugins.sources.rows import BadRow
from trimtab.plugins.sources.said import Said

Ids = list[int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completion:
    """Token ids, and the stretches of them to train."""

    ids: array[int]
    spans: tuple[tuple[int, int], ...]
    """In order, without overlap; one stretch from end to end but for conversations."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids: a prompt, and what may follow it."""

    prompt: array[int]
    completions: tuple[Completion, ...]
    said: Said = None
    """What the row says of its completions."""

    prompted: bool = True
    """False where the prompt is nothing but a token to start from."""

    notes: tuple[str, ...] = ()
    """What was done to the row that the user should know of, in the plural."""


class Encoder:
    """Tokenizes many examples at a time.

    The prompt's ids are a prefix of the ids of prompt and completion together, or the row is bad:
    otherwise the model is trained on tokens that it never meets when it answers. Each completion
    ends with an EOS action: the end of turn that the chat template writes, else the tokenizer's
    EOS. The mask follows from positions alone, so padding with EOS loses nothing.
    """

    def __init__(self, tokenizer: Any, data: DataConfig) -> None:
        self.tokenizer = tokenizer
        self.max_prompt = data.max_prompt_tokens
        self.max_completion = data.max_completion_tokens
        self.overlong: Literal["drop", "truncate"] = data.overlong
        self.start = _start(tokenizer)
        self.specials = set(tokenizer.all_special_ids) | {
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        } - {tokenizer.unk_token_id}

    def encode(self, examples: Sequence[Example]) -> list[Encoded | BadRow]:
        """Each example's tokens, or what is wrong with it."""
        drafts = [_or_fault(partial(self._draft, example)) for example in examples]
        ids = self._ids(
            draft.text[:cut]
            for rendered in drafts
            if not isinstance(rendered, BadRow)
            for draft in rendered
            for cut in draft.cuts
        )
        return [
            draft if isinstance(draft, BadRow) else _or_fault(partial(self._row, one, draft, ids))
            for one, draft in zip(examples, drafts, strict=True)
        ]

    def _draft(self, example: Example) -> list[Rendered]:
        """Each completion after its prompt, as text; a prompt that has none, alone."""
        if isinstance(example.prompt, str):
            texts = cast(tuple[str, ...], example.completions) or ("",)
            return [plain(example.prompt, completion) for completion in texts]
        if not self.tokenizer.chat_template:
            raise UserError(
                "the rows are conversations, and this model's tokenizer has no chat template: "
                "use an instruction-tuned model, or rows of plain text"
            )
        options = {**example.template, "tokenize": False}
        template = partial(self.tokenizer.apply_chat_template, **options)
        turns = cast(tuple[list[Message], ...], example.completions)
        try:
            opened = template(example.prompt, add_generation_prompt=True)
            answered = [render(template, example.prompt, answer, opened) for answer in turns]
            return answered or [Rendered(opened, (len(opened),))]
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise BadRow(f"the chat template refuses it: {error}") from error

    def _ids(self, texts: Iterable[str]) -> Mapping[str, Ids]:
        """The ids of each text, without special tokens but those that it spells out."""
        distinct = list(dict.fromkeys(texts))
        if self.tokenizer.is_fast:
            backend = self.tokenizer.backend_tokenizer
            encodings = backend.encode_batch_fast(distinct, add_special_tokens=False)
            return {text: one.ids for text, one in zip(distinct, encodings, strict=True)}
        return {
            text: self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in distinct
        }

    def _row(self, example: Example, drafts: list[Rendered], ids: Mapping[str, Ids]) -> Encoded:
        notes = list(example.notes)
        if any(draft.skipped for draft in drafts):
            notes.append(
                "rows with answers not trained, for the chat template changes them later on"
            )
        if len({draft.prompt for draft in drafts}) > 1:
            raise BadRow("the chat template gives its completions different prompts")
        prompt = ids[drafts[0].prompt]
        prompted = bool(prompt)
        if not drafts[0].chat or not prompted:
            prompt = [*self.start.ids(prompted), *prompt]
        answered = drafts[: len(example.completions)]
        completions = tuple(self._completion(draft, ids) for draft in answered)
        if any(self._spells_specials(completion) for completion in completions):
            notes.append("rows whose completions spell out special tokens of the model")
        if self._too_long(prompt, completions):
            prompt, completions = self._shortened(prompt, completions)
            notes.append("truncated rows")
        if any(one == other for one, other in combinations(completions, 2)):
            raise BadRow("two completions are the same, as tokens within the length limits")
        return Encoded(array("i", prompt), completions, example.said, prompted, tuple(notes))

    def _completion(self, draft: Rendered, ids: Mapping[str, Ids]) -> Completion:
        whole = ids[draft.text]
        cuts = [_position(ids[draft.text[:cut]], whole) for cut in draft.cuts[:-1]]
        tail = whole[cuts[0] :]
        if not tail:
            raise BadRow("the completion has no tokens")
        eos = self.tokenizer.eos_token_id
        ended = tail[-1] in self.specials if draft.chat else tail[-1] == eos
        if not ended and eos is not None:
            tail.append(eos)
        begins, ends = cuts[::2], [*cuts[1::2], cuts[0] + len(tail)]
        spans = tuple((b - cuts[0], e - cuts[0]) for b, e in zip(begins, ends, strict=True))
        return Completion(array("i", tail), spans)

    def _spells_specials(self, completion: Completion) -> bool:
        """Is a special token trained anywhere but at the end of a turn?"""
        return not all(
            self.specials.isdisjoint(completion.ids[begin : end - 1])
            for begin, end in completion.spans
        )

    def _too_long(self, prompt: Ids, completions: tuple[Completion, ...]) -> bool:
        """Is the row beyond the limits on length? ``BadRow`` where such rows are dropped."""
        longest = max((len(completion.ids) for completion in completions), default=0)
        for part, length, limit in (
            ("prompt", len(prompt), self.max_prompt),
            ("completion", longest, self.max_completion),
        ):
            if length > limit and self.overlong == "truncate":
                return True
            if length > limit:
                raise BadRow(f"{part} longer than data.max_{part}_tokens ({limit})")
        return False

    def _shortened(
        self, prompt: Ids, completions: tuple[Completion, ...]
    ) -> tuple[Ids, tuple[Completion, ...]]:
        """The prompt without its start, but with its BOS; completions without their end, and so
        without an EOS action."""
        if len(prompt) > self.max_prompt:
            kept = self.start.added if prompt[0] in self.start.added else ()
            room = self.max_prompt - len(kept)
            prompt = [*kept, *prompt[len(prompt) - room :]]
        return prompt, tuple(_cut(one, self.max_completion) for one in completions)


@dataclass(frozen=True, slots=True)
class _Start:
    """How this model's texts start."""

    added: tuple[int, ...]
    """The BOS, if the tokenizer puts one before a text."""

    needed: int | None
    """What stands in for an empty prompt, for the first trained token needs a predecessor."""

    def ids(self, prompted: bool) -> tuple[int, ...]:
        """What comes before a plain prompt."""
        if self.added or prompted:
            return self.added
        if self.needed is None:
            raise BadRow("no prompt, and the tokenizer has neither BOS nor EOS to start from")
        return (self.needed,)


def _start(tokenizer: Any) -> _Start:
    bos = tokenizer.bos_token_id
    adds = bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]
    return _Start((bos,) if adds else (), tokenizer.eos_token_id if bos is None else bos)


def _position(part: Ids, whole: Ids) -> int:
    """Where a text that starts the whole ends in the whole's tokens."""
    if whole[: len(part)] != part:
        raise BadRow(
            "the tokens of the prompt change when the completion follows: "
            "end the prompt before a space or a line break"
        )
    return len(part)


def _cut(completion: Completion, length: int) -> Completion:
    spans = tuple((b, min(e, length)) for b, e in completion.spans if b < length)
    return Completion(completion.ids[:length], spans)


def _or_fault(make: Callable[[], T]) -> T | BadRow:
    try:
        return make()
    except BadRow as fault:
        return fault
