"""The judge ``openai``: a model behind any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trimtab.core.errors import Waits
from trimtab.core.hookspecs import hookimpl
from trimtab.core.judge import JudgeSetting
from trimtab.core.stages import whole_run
from trimtab.plugins.judges.answers import Answers, key_of
from trimtab.plugins.judges.chat import ChatJudge
from trimtab.plugins.judges.endpoint import Address, Endpoint, Halted, Refused
from trimtab.plugins.judges.ledger import Ledger, Spent
from trimtab.plugins.judges.openai_options import OFFICIAL, OpenAIConfig
from trimtab.plugins.judges.question import Answer, Question
from trimtab.plugins.judges.replies import Reply, Unreadable, reply_of

FEWER = (20, 5)
"""How many likely tokens are asked for where the endpoint refuses more; at last none."""


class OpenAIJudge(ChatJudge[OpenAIConfig]):
    """Asks by the official client, several questions at a time, and pays for each once.

    A question is known by the endpoint, the model and all that is sent. What the run was answered
    is in ``judge_requests.jsonl`` of its directory, and what any run was answered is in the cache;
    only what is in neither is asked, and what was drawn by chance is not drawn again for the same
    ``train.seed``. Where requests fail for good, the others under way end and
    are kept, and the run stops. An abstention is what the model did not say: an empty text, or a
    text that the endpoint refuses as too long or by its filter, which is not kept.

    Where the log-probs of the likeliest tokens do not hold all options, the text counts.
    ``without_logprobs`` of the counts says how often none came though they were asked for.
    """

    name = "openai"
    options = OpenAIConfig

    def check(self) -> None:
        self._reached()

    def open(self, setting: JudgeSetting) -> None:
        super().open(setting)
        config = self.config
        self._endpoint = self._reached()
        self._address = self._endpoint.address
        home = setting.directory and whole_run(setting.directory)
        self._home = home
        self._ledger = Ledger(home, config.budget.requests, config.budget.tokens)
        shared = None if config.cache is None else Path(config.cache or "").expanduser()
        self._answers = None if config.cache is False else Answers(shared)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._top = config.top_logprobs if config.logprobs == "auto" else None
        self._limit = "max_tokens"
        self._told = False

    def _reached(self) -> Endpoint:
        """The endpoint, to which nothing is sent yet; the package and the key are there."""
        config = self.config
        base_url = (config.base_url or OFFICIAL).rstrip("/")
        return Endpoint(Address(base_url, config.api_key_env, config.timeout, config.retries))

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        keys = [key_of(self._identity(question)) for question in questions]
        found: dict[str, Reply] = {}
        unknown: dict[str, Question] = {}
        for key, question in zip(keys, questions, strict=True):
            reply = found.get(key) or self._known(key)
            if reply is None:
                unknown.setdefault(key, question)
            else:
                found[key] = reply
        found |= self._fetched(unknown)
        with self._lock:
            self._counts["cached"] += len(keys) - len(unknown)
        self._tell()
        return [Answer(found[key].text, found[key].logps, found[key].why) for key in keys]

    def counts(self) -> dict[str, int]:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(+counts)

    def describe(self) -> Mapping[str, Any]:
        base_url = (self.config.base_url or OFFICIAL).rstrip("/")
        asked = self.config.model_dump(include={"model", "logprobs", "top_logprobs", "extra"})
        return {**super().describe(), **asked, "base_url": base_url}

    def _identity(self, question: Question) -> dict[str, Any]:
        """All that the answer depends on."""
        return {
            "base_url": self._address.base_url,
            "model": self.config.model,
            "messages": [dict(turn) for turn in question.turns],
            "options": list(question.options),
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "seed": self.setting.seed if question.temperature else None,
            "logprobs": bool(question.options) and self.config.logprobs,
            "top_logprobs": bool(question.options) and self.config.top_logprobs,
            "extra": self.config.extra,
        }

    def _known(self, key: str) -> Reply | None:
        paid = self._ledger.find(key)
        return paid or (self._answers.find(key) if self._answers is not None else None)

    def _fetched(self, questions: Mapping[str, Question]) -> dict[str, Reply]:
        """Ask all of them. Where one fails for good, no other is sent after it."""
        if not questions:
            return {}
        self._endpoint.halt.clear()
        with ThreadPoolExecutor(self.config.concurrency, "judge") as pool:
            try:
                futures = {key: pool.submit(self._one, key, q) for key, q in questions.items()}
                failures = [future.exception() for future in futures.values()]
            finally:
                self._endpoint.halt.set()
                pool.shutdown(wait=False, cancel_futures=True)
        for failure in failures:
            if isinstance(failure, Spent):
                raise self._spent(failure)
            if failure is not None and not isinstance(failure, Halted):
                raise failure
        return {key: future.result() for key, future in futures.items()}

    def _one(self, key: str, question: Question) -> Reply:
        """One question's answer. In whichever way it fails, the other threads hear of it."""
        try:
            return self._sent(key, question)
        except BaseException:
            self._endpoint.halt.set()
            raise

    def _sent(self, key: str, question: Question) -> Reply:
        """The answer, asked for as the endpoint lets itself be asked."""
        top = self._top if question.options else None
        limit = self._limit
        while True:
            body = self._body(question, top, limit)
            try:
                reply: Reply = self._endpoint.send(body, self._attempt(key, question, top))
            except Refused as error:
                if error.of_the_content:
                    return Reply(None, None, f"the endpoint refuses the text: {error.said}")
                if limit != "max_completion_tokens" and "max_completion_tokens" in error.said:
                    limit = "max_completion_tokens"
                elif top is not None and error.status not in (401, 403, 404):
                    top = _fewer(top, "logprobs" in error.said)
                else:
                    raise self._endpoint.refused(error, self.config.model) from None
                continue
            with self._lock:
                self._limit = limit
                if question.options and (top or 0) < (self._top or 0):
                    self._top = top
            return reply

    def _attempt(
        self, key: str, question: Question, top: int | None
    ) -> Callable[[Callable[[], Any]], Reply]:
        """Sends once, where the budget has room, and writes down what came."""
        bound = _bound(question)

        def attempt(send: Callable[[], Any]) -> Reply:
            with self._ledger.room(bound):
                if self._endpoint.halt.is_set():
                    raise Halted
                began = time.monotonic()
                try:
                    reply = reply_of(send(), question, listed=top is not None)
                except Unreadable as error:
                    self._ledger.pay(key, bound, time.monotonic() - began, str(error))
                    self._count(requests=1)
                    raise
                self._ledger.pay(key, bound, time.monotonic() - began, reply)
            if self._answers is not None:
                self._answers.keep(key, reply)
            wanted = bool(question.options) and self.config.logprobs == "auto"
            self._count(
                requests=1,
                prompt_tokens=reply.prompt_tokens or 0,
                completion_tokens=reply.completion_tokens or 0,
                without_logprobs=int(wanted and not reply.listed),
            )
            return reply

        return attempt

    def _body(self, question: Question, top: int | None, limit: str) -> dict[str, Any]:
        listed = {} if top is None else {"logprobs": True, "top_logprobs": top}
        return {
            "model": self.config.model,
            "messages": [dict(turn) for turn in question.turns],
            limit: question.max_tokens,
            "temperature": question.temperature,
            **listed,
            **({"extra_body": self.config.extra} if self.config.extra else {}),
        }

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    def _spent(self, spent: Spent) -> Waits:
        paid, caps, unit = self._ledger.paid, self._ledger.caps, spent.unit
        way = "raise it"
        if self._home is not None:
            way += f" in {self._home / 'config.yaml'}, then: trimtab resume {self._home}"
        return Waits(
            f"the next request would exceed judge.budget.{unit} = {caps[unit]}: the run has paid "
            f"for {paid['requests']} requests and {paid['tokens']} tokens, and keeps their "
            f"answers. To go on, {way}"
        )

    def _tell(self) -> None:
        """What the user should know, once."""
        if self._answers is not None:
            for text in self._answers.damaged:
                warnings.warn(text, stacklevel=2)
            self._answers.damaged.clear()
        if self._counts["without_logprobs"] and not self._told:
            self._told = True
            warnings.warn(
                f"{self._address.base_url} gives no log-probs of {self.config.model!r}: verdicts "
                "are read from its texts",
                stacklevel=2,
            )


def _fewer(top: int, named: bool) -> int | None:
    """The next lower number of tokens to ask for; none where it is not their number that is
    refused."""
    return next((each for each in FEWER if each < top), None) if named else None


def _bound(question: Question) -> int:
    """More tokens than a request can cost: one a byte, and what a chat template may add."""
    written = sum(len(turn["content"].encode()) + 16 for turn in question.turns)
    return written + 64 + question.max_tokens


@hookimpl
def provide_judges() -> Sequence[type]:
    return [OpenAIJudge]
