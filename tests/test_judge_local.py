"""The judge ``local``: exact log-probs, texts of their own streams, and the run's own base."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from pydantic import ValidationError
from tiny import DEVICE, policy, save_tiny

from trimtab import Comparison, Rating
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.embedded import NAME
from trimtab.core.errors import UserError
from trimtab.core.judge import JudgeSetting
from trimtab.core.lm import LanguageModel
from trimtab.core.model import checkpoints, load_base, load_tokenizer, weights_hash
from trimtab.core.policy import BASE, POLICY
from trimtab.core.roles import Roles
from trimtab.plugins.judges.local import LocalConfig, LocalJudge
from trimtab.plugins.judges.question import Question

RATINGS = tuple(str(number) for number in range(1, 11))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def setting(tiny, model=None, *, seed=0, **held):
    """Of a run on the tiny model."""
    section = ModelConfig(name=str(tiny), quantization="none", **held)
    return JudgeSetting(section, load_tokenizer(NAME), seed, model)


def judge(tiny, *, seed=0, **options):
    """On a model of its own."""
    made = LocalJudge(LocalConfig(model=str(tiny), quantization="none", **options))
    made.open(setting(tiny, seed=seed))
    return made


def shared(tiny, model, **options):
    """On the base of a run."""
    made = LocalJudge(LocalConfig(**options))
    made.open(setting(tiny, model))
    return made


def question(number, options=("1", "2"), **changes):
    """One with a system turn; each is longer than the one before."""
    turns = (
        {"role": "system", "content": "You judge."},
        {"role": "user", "content": f"Question {number}: " + "which one? " * number},
    )
    return Question(turns, options, **changes)


def mixed_questions():
    """Of all lengths, with options and with texts, in no order."""
    return [
        question(5, RATINGS),
        question(1),
        question(3, (), max_tokens=12),
        question(9),
        question(2, RATINGS),
        question(4, (), max_tokens=6, temperature=0.9),
        question(7, (), max_tokens=6, temperature=0.9),
    ]


def by_transformers(base, asked, option):
    """log P of an option, for this prompt alone, by the model's own forward."""
    tokenizer = load_tokenizer(NAME)
    prompt = tokenizer.apply_chat_template(
        list(asked.turns), add_generation_prompt=True, return_dict=False
    )
    end = "<|im_end|>" if "10" in asked.options else ""
    completion = tokenizer(f"{option}{end}").input_ids
    ids = torch.tensor([[*prompt, *completion]], device=DEVICE)
    with torch.no_grad():
        logps = base(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logps.gather(-1, ids[0, len(prompt) :, None]).sum())


def assert_alike(some, others):
    """The same texts, and the same log-probs to 1e-5."""
    for one, other in zip(some, others, strict=True):
        assert one.text == other.text and (one.logps is None) == (other.logps is None)
        assert (one.logps or {}) == pytest.approx(other.logps or {}, abs=1e-5)


def test_log_probs_are_those_of_transformers_for_one_prompt_at_a_time(tiny):
    made = judge(tiny)
    asked = [question(5, RATINGS), question(1), question(9)]
    plain = load_base(ModelConfig(name=str(tiny), quantization="none"), DEVICE)
    for one, answer in zip(asked, made.ask(asked), strict=True):
        assert answer.text is None and tuple(answer.logps) == one.options
        for option, logp in answer.logps.items():
            assert logp == pytest.approx(by_transformers(plain, one, option), abs=1e-5)


def test_answers_are_the_same_alone_and_in_any_batch_and_order(tiny):
    made, asked = judge(tiny), mixed_questions()
    together = made.ask(asked)
    assert_alike([made.ask([each])[0] for each in asked], together)
    assert_alike(made.ask(asked[::-1])[::-1], together)
    assert_alike(judge(tiny, micro_tokens=1).ask(asked), together)
    assert_alike(made.ask(asked * 2), together * 2)


def test_texts_follow_from_the_question_and_the_seed(tiny):
    hot = [question(n, (), max_tokens=8, temperature=1.0) for n in range(4)]
    greedy = [question(n, (), max_tokens=8) for n in range(4)]
    one, same, other = judge(tiny), judge(tiny), judge(tiny, seed=1)
    assert one.ask(hot) == same.ask(hot) != other.ask(hot)
    assert one.ask(greedy) == other.ask(greedy) != one.ask(hot)
    assert len({answer.text for answer in one.ask(hot)}) == 4


def test_what_was_asked_is_counted_once(tiny):
    made = judge(tiny)
    asked = [question(1), question(2, (), max_tokens=5), question(1000)]
    answers = made.ask(asked)
    lengths = [len(made._encoder.encode(each.turns).ids) for each in asked]
    counts = made.counts()
    assert counts["requests"] == 2 and counts["prompt_tokens"] == sum(lengths[:2])
    assert 1 <= counts["completion_tokens"] <= 5
    assert made.counts() == {}
    assert answers[2].text is None and answers[2].logps is None
    assert f"{lengths[2]} tokens" in answers[2].why and "reads 512 at most" in answers[2].why


def test_a_question_fits_to_the_last_token_and_is_never_cut(tiny):
    made = judge(tiny)
    length = len(made._encoder.encode(question(0).turns).ids)
    rest = 512 - length
    fits, over = made.ask([question(0, (), max_tokens=rest), question(0, (), max_tokens=rest + 1)])
    assert fits.text and over.text is None and "may have" in over.why
    pair = Comparison("Which?", "word " * 1000, "short")
    verdict, rating = made.compare([pair])[0], made.score([Rating("Which?", pair.first)])[0]
    assert verdict.value is rating.value is None
    assert "reads 512 at most" in verdict.why and "reads 512 at most" in rating.why


def test_verdicts_come_from_the_log_probs(tiny):
    made = judge(tiny, disagreement="average")
    pairs = [Comparison("Say it.", "yes", "no"), Comparison("Say it.", "no", "yes")]
    one, other = made.compare(pairs)
    assert 0 < one.value < 1 and one.value == pytest.approx(1 - other.value, abs=1e-6)
    (rating,) = made.score([Rating("Say it.", "yes")])
    assert 1 < rating.value < 10


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_without_a_model_it_is_the_runs_base_with_every_adapter_off(tiny, quantization):
    asked = mixed_questions()
    own = LocalJudge(LocalConfig(model=str(tiny), quantization=quantization))
    own.open(setting(tiny))
    model = policy(tiny, quantization=quantization)
    on_base = shared(tiny, model)
    assert on_base.shares_base and not own.shares_base
    assert on_base.ask(asked) == own.ask(asked)
    assert on_base.describe()["weights"] == own.describe()["weights"]


def test_without_a_model_it_takes_no_memory(tiny):
    def held():
        gc.collect()
        return sum(
            each.nbytes for each in gc.get_objects() if issubclass(type(each), torch.Tensor)
        )

    model = policy(tiny)
    before = held()
    made = shared(tiny, model)
    made.ask(mixed_questions())
    assert held() == before
    assert made._model.base is model.base


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_policy_is_as_before_after_a_call(tiny, checkpointing):
    model = policy(tiny, checkpointing=checkpointing, scalar=("critic",))
    made = shared(tiny, model)

    def looks():
        flags = [p.requires_grad for p in model.base.parameters()]
        return model.roles.active, flags, [m.training for m in model.base.modules()]

    state = torch.random.get_rng_state()
    with model.role("critic"):
        before = looks()
        made.ask(mixed_questions())
        assert looks() == before
    assert checkpoints(model.base) == checkpointing
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropout_of_adapters_and_of_the_policy_does_not_reach_it(tiny):
    config = ModelConfig(name=str(tiny), quantization="none")
    roles = Roles(load_base(config, DEVICE), AdapterConfig(rank=4, dropout=0.5))
    model = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
    asked = mixed_questions()
    assert shared(tiny, model).ask(asked) == judge(tiny, micro_tokens=4096).ask(asked)


def test_a_base_that_is_trained_itself_does_not_judge(tiny):
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    for frozen in (True, False):
        roles = Roles(load_base(config, DEVICE), None, frozen=frozen)
        model = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
        if frozen:
            assert_alike(shared(tiny, model).ask([question(1)]), judge(tiny).ask([question(1)]))
        else:
            with pytest.raises(UserError, match="give judge.model, or train an adapter"):
                shared(tiny, model)


def test_it_says_what_it_is(tiny):
    made = judge(tiny, temperature=0.5)
    described = made.describe()
    base = load_base(ModelConfig(name=str(tiny), quantization="none"), DEVICE)
    assert described["model"] == str(tiny) and described["weights"] == weights_hash(base)
    assert described["quantization"] == "none" and described["dtype"] == "float32"
    assert described["turns"] == "chat template" and described["temperature"] == 0.5
    assert not described["the_runs_base"] and described["template"]["sha256"]


def test_how_a_model_is_held_is_not_said_of_the_runs_base():
    with pytest.raises(ValidationError, match="quantization is of the judge's own model"):
        LocalConfig(quantization="none")
    with pytest.raises(ValidationError, match="trust_remote_code is of the judge's own"):
        LocalConfig(trust_remote_code=True)
    resolved = LocalConfig().model_dump(mode="json")
    assert LocalConfig(**resolved) == LocalConfig()


def test_a_model_that_is_not_there_is_refused(tiny, tmp_path):
    made = LocalJudge(LocalConfig(model=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="is no folder"):
        made.open(setting(tiny))


def test_its_own_model_is_let_go_with_it(tiny):
    made = judge(tiny)
    made.ask([question(1)])
    base = weakref.ref(made._model.base)
    del made
    gc.collect()
    assert base() is None


def test_a_run_out_of_memory_makes_the_judge_on_its_base_read_less(tiny):
    model = policy(tiny, micro_tokens=64)
    made = shared(tiny, model)
    model.halve()
    made.ask([question(1)])
    assert made._model.micro_tokens == 32


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_embedded_model_judges_itself_with_the_log_probs_of_transformers(quantization):
    config = ModelConfig(quantization=quantization)
    base = load_base(config, DEVICE)
    asked = [question(3), question(1, ("1", "10"))]
    want = [[by_transformers(base, each, option) for option in each.options] for each in asked]
    roles = Roles(base, AdapterConfig(rank=4))
    model = LanguageModel(roles, dtype=torch.float32, micro_tokens=512)
    with torch.no_grad():
        for parameter in roles.parameters(POLICY):
            parameter.normal_(std=0.05)
    made = LocalJudge(LocalConfig())
    made.open(JudgeSetting(config, load_tokenizer(NAME), 0, model))
    for answer, logps in zip(made.ask(asked), want, strict=True):
        assert list(answer.logps.values()) == pytest.approx(logps, abs=1e-4)
    with model.role(BASE):
        assert model.roles.active == BASE
    rude, kind = "Get lost, I hate you.", "Of course! Paris is the capital of France."
    prompt = "What is the capital of France?"
    one, other = made.compare([Comparison(prompt, kind, rude), Comparison(prompt, rude, kind)])
    assert all(0 < share < 1 for share in (*one.orders, *other.orders))
    assert one.value + other.value == pytest.approx(1.0, abs=1e-5)
