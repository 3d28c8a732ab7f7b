"""The judge openai against servers that others wrote, with the embedded model."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from worlds import lines

from trimtab.core.config import ModelConfig
from trimtab.core.embedded import NAME, _gguf, converted
from trimtab.core.judge import Comparison, JudgeSetting
from trimtab.core.model import load_tokenizer
from trimtab.plugins.judges.local import LocalJudge
from trimtab.plugins.judges.openai import OpenAIJudge
from trimtab.plugins.judges.question import Question

pytestmark = pytest.mark.slow

REVIEWS = ("a great film", "a boring mess", "funny and warm", "awful acting, no plot")
NUMBERS = tuple(map(str, range(1, 11)))


def python_with(package, variable, install):
    """An interpreter that has the package: the one that a variable names, or this one."""
    named = os.environ.get(variable)
    if named or importlib.util.find_spec(package):
        return named or sys.executable
    pytest.skip(f"wants {install}; {variable} names the interpreter where that is elsewhere")


@contextmanager
def serving(log, *command, path="/v1/models"):
    """Run a server on a free port of loopback; its base_url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 180
        while not answers(f"http://127.0.0.1:{port}{path}"):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def answers(url):
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """llama.cpp with the GGUF itself. Its batches of one token (``n_ubatch``) avoid its kernels
    for matrices, which crash on some processors; it tells log-probs only with ``logits_all``."""
    install = "pip install 'llama-cpp-python[server]'"
    python = python_with("llama_cpp.server", "TRIMTAB_TEST_LLAMA_PYTHON", install)
    options = {"n_threads": 1, "n_ctx": 2048, "n_ubatch": 1, "logits_all": "true"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    log = tmp_path_factory.mktemp("llama") / "log"
    with serving(log, python, "-m", "llama_cpp.server", "--model", _gguf(), *words) as url:
        yield url


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """``transformers serve``, on its way to the same weights."""
    install = "pip install 'transformers[serving]'"
    python = python_with("fastapi", "TRIMTAB_TEST_SERVING_PYTHON", install)
    start = "from transformers.cli.transformers import main; main()"
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(log, python, "-c", start, "serve", path="/health") as url:
        yield url


def opened(cls, tmp_path, **options):
    judge = cls(cls.options.model_validate(options))
    tokenizer = load_tokenizer(NAME)
    config = ModelConfig(name=NAME, quantization="none", dtype="float32")
    judge.open(JudgeSetting(config, tokenizer, 0, None, tmp_path))
    return judge


def by_openai(url, tmp_path, model="any", **options):
    return opened(
        OpenAIJudge,
        tmp_path,
        **{"model": model, "base_url": url, "cache": False, "concurrency": 1, "timeout": 300.0},
        **options,
    )


def by_itself(tmp_path):
    return opened(LocalJudge, tmp_path, model=NAME, quantization="none", dtype="float32")


def asked(text, options):
    return Question(({"role": "user", "content": text},), options)


def which():
    """Every two of the reviews."""
    return [
        asked(f"Which is more favourable?\n1: {a}\n2: {b}\nAnswer with 1 or 2 only.", ("1", "2"))
        for a in REVIEWS
        for b in REVIEWS
        if a < b
    ]


def test_llama_and_the_local_judge_say_the_same_log_probs(llama, tmp_path, record_property):
    """They differ by the arithmetic: llama.cpp rounds what it multiplies Q4_1 weights with to 8
    bits. Measured: 0.22 nats at most, 0.10 in the mean; see the verdicts below, too: 0.009."""
    judge = by_openai(llama, tmp_path)
    served, own = judge.ask(which()), by_itself(tmp_path).ask(which())
    gaps = [abs(s.logps[o] - w.logps[o]) for s, w in zip(served, own, strict=True) for o in "12"]
    record_property("largest gap in nats", max(gaps))
    record_property("mean gap in nats", sum(gaps) / len(gaps))
    assert max(gaps) < 0.4 and sum(gaps) / len(gaps) < 0.2
    assert "without_logprobs" not in judge.counts()


def test_llama_and_the_local_judge_give_the_same_verdicts(llama, tmp_path, record_property):
    """With the prompts that come with trimtab, of whose options this small model thinks little:
    they are far down the list."""
    pairs = [Comparison("Write a review.", a, b) for a in REVIEWS[:2] for b in REVIEWS[2:]][:2]
    served = by_openai(llama, tmp_path, top_logprobs=1000).compare(pairs)
    own = by_itself(tmp_path).compare(pairs)
    orders = [[each for one in judged for each in one.orders] for judged in (served, own)]
    gaps = [abs(s - w) for s, w in zip(*orders, strict=True)]
    record_property("largest gap in probability", max(gaps))
    assert max(gaps) < 0.03


def test_one_and_ten_are_told_apart_where_llama_writes_a_one(llama, tmp_path):
    """Its tokenizer splits digits. P(1) = p(1) (1 - P(a digit | 1)) and P(10) = p(1) p(0 | 1)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(converted()).eval()
    tokenizer = load_tokenizer(NAME)
    told = 0
    for review in REVIEWS:
        request = f"Rate from 1 to 10 how favourable this review is: {review}\n"
        question = asked(f"{request}Answer with a number only.", NUMBERS)
        answer = by_openai(llama, tmp_path, top_logprobs=200).ask([question])[0]
        text = tokenizer.apply_chat_template(
            list(question.turns), add_generation_prompt=True, tokenize=False
        )
        first, after = (_next(model, tokenizer, text + begun) for begun in ("", "1"))
        if answer.logps is None:
            assert not answer.text.startswith("1")
            continue
        told += 1
        ten = first["1"] * after["0"]
        one = first["1"] * (1 - sum(after[str(n)] for n in range(10)))
        expected = {"1": one, "10": ten} | {str(n): first[str(n)] for n in range(2, 10)}
        for option, logp in answer.logps.items():
            assert logp == pytest.approx(math.log(expected[option]), abs=0.3)
    assert told


def _next(model, tokenizer, text):
    """P(digit) of each as the next token."""
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        p_V = model(ids).logits[0, -1].softmax(-1)
    return {str(n): p_V[tokenizer.convert_tokens_to_ids(str(n))].item() for n in range(10)}


def test_transformers_serve_refuses_log_probs_and_is_read_by_its_texts(transformers, tmp_path):
    judge = by_openai(transformers, tmp_path, model=str(converted()))
    with pytest.warns(UserWarning, match="gives no log-probs"):
        answers = judge.ask(which()[:3])
    assert all(answer.logps is None and answer.text for answer in answers)
    counts = judge.counts()
    assert counts["requests"] == counts["without_logprobs"] == 3
    ledger = lines(tmp_path / "judge_requests.jsonl")
    assert [line["answer"]["text"] for line in ledger] == [answer.text for answer in answers]
