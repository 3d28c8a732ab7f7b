"""A reward model as a reward scores what `trimtab score` says, on the run's own base or not."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import pytest
import torch
import warm
import yaml
from data_fixtures import turns, write_jsonl
from test_scoring import by_theirs
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)
from worlds import BAD, GOOD, lines

from trimtab.core.batches import Demonstrations, sequences
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.finished import export, load_scorer
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base, load_tokenizer
from trimtab.core.reward import Group, RewardSetting
from trimtab.core.roles import Roles
from trimtab.plugins.registry import Plugins

MEMBERS = 2


def trained(world, home, **changes):
    """A run's directory, by a real command."""
    file = world.file(home / "run.yaml", **changes)
    ended = warm.trimtab("train", file, "--run", home / "run")
    assert ended.status == 0, ended.output
    return home / "run"


@pytest.fixture(scope="module")
def ensemble(world, tmp_path_factory):
    """Two reward models, trained for a few steps."""
    objective = {"name": "reward_model", "members": MEMBERS}
    return trained(world, tmp_path_factory.mktemp("ensemble"), objective=objective)


@pytest.fixture(scope="module")
def policy_run(world, tmp_path_factory):
    return trained(world, tmp_path_factory.mktemp("sft"), **world.demonstrating())


@pytest.fixture(scope="module")
def plugins():
    return Plugins()


def groups(tokenizer):
    """Two prompts with ragged completions: some end in EOS, one is EOS alone, one is empty."""
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return tuple(torch.randint(3, 384, (length,), generator=generator).tolist())

    made = []
    for prompt, answers in ((ids(7), [(*ids(5), 0), (0,), ids(9)]), (ids(3), [(*ids(2), 0), ()])):
        sampled = tuple(Completion(prompt, tokens, truncated=False) for tokens in answers)
        made.append(
            Group(
                prompt=tokenizer.decode(prompt),
                completions=[
                    tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers
                ],
                sampled=sampled,
            )
        )
    return made


def opened(plugins, world, options, **changes):
    """A reward on the base that a run would give it."""
    settings = {"name": str(world.model), "quantization": "none", "adapter": AdapterConfig(rank=4)}
    model = ModelConfig(**(settings | changes))
    reward = plugins.make("reward", "reward_model", options)
    roles = Roles(
        load_base(model, torch.device("cpu")),
        model.adapter,
        frozen_roles=reward.adapters(model) if model.adapter else {},
    )
    policy = LanguageModel(roles, dtype=torch.float32, micro_tokens=512)
    tokenizer = load_tokenizer(model.name)
    reward.open(RewardSetting(model, policy, tokenizer, 0))
    return reward, policy, tokenizer


def by_score(plugins, run, shown):
    """members_RN of ``trimtab score``'s own scorer."""
    sampled = [one for group in shown for one in group.sampled]
    batch = Demonstrations(sequences([o.prompt for o in sampled], [o.tokens for o in sampled]))
    return load_scorer(run, plugins).score(batch)["responses"].members_RN


def values(reward, shown):
    return [score.value for of_group in reward.score(shown) for score in of_group]


@pytest.mark.parametrize("changes", [{}, {"adapter": None}, {"dtype": "bfloat16"}])
def test_it_scores_to_the_bit_what_trimtab_score_says(plugins, world, ensemble, changes):
    """On the run's own base; and where that is trained, or held in another way, on one more."""
    reward, policy, tokenizer = opened(plugins, world, {"from": str(ensemble)}, **changes)
    shown = groups(tokenizer)
    want_RN = by_score(plugins, ensemble, shown)
    got = [score for of_group in reward.score(shown) for score in of_group]
    assert len(policy.roles.frozen) == (0 if changes else MEMBERS)
    assert [score.value for score in got[:-1]] == want_RN.mean(0).tolist()[:-1]
    assert got[-1].value is None and got[-1].why == "it is empty"
    for score, members in zip(got[:-1], want_RN.T.tolist(), strict=False):
        assert score.parts == dict(zip(["reward_0", "reward_1"], members, strict=True))
    assert len({score.value for score in got}) == 5
    assert reward.describe()["on_the_runs_base"] is not bool(changes)


def test_the_policy_s_layout_does_not_change_a_score(plugins, world, ensemble):
    reward, policy, tokenizer = opened(plugins, world, {"from": str(ensemble)})
    policy.share = True
    shown = groups(tokenizer)
    assert values(reward, shown)[:-1] == by_score(plugins, ensemble, shown).mean(0).tolist()[:-1]


def test_members_are_combined_as_asked(plugins, world, ensemble):
    tokenizer = load_tokenizer(str(world.model))
    shown = groups(tokenizer)
    want_RN = by_score(plugins, ensemble, shown)[:, :-1]
    ways = {
        ("min", 1.0): want_RN.amin(0),
        ("lower", 0.5): want_RN.mean(0) - 0.5 * want_RN.std(0),
    }
    for (combine, k), want_N in ways.items():
        options = {"from": str(ensemble), "combine": combine, "k": k}
        reward, _, _ = opened(plugins, world, options)
        assert values(reward, shown)[:-1] == want_N.tolist()


def test_one_member_alone_has_no_parts(plugins, world, ensemble):
    member = ensemble / "roles" / "reward_1"
    reward, policy, tokenizer = opened(plugins, world, {"from": str(member)})
    shown = groups(tokenizer)
    assert values(reward, shown)[:-1] == by_score(plugins, ensemble, shown)[1].tolist()[:-1]
    assert len(policy.roles.frozen) == 1
    assert not any(score.parts for of_group in reward.score(shown) for score in of_group)


def test_two_rewards_of_one_folder_share_its_adapter(plugins, world, ensemble):
    config = ModelConfig(name=str(world.model), quantization="none")
    one, other = (
        plugins.make("reward", "reward_model", {"from": str(ensemble), "combine": combine})
        for combine in ("mean", "min")
    )
    assert one.adapters(config) == other.adapters(config)


def test_an_exported_model_scores_the_same_as_a_classifier(plugins, world, ensemble, tmp_path):
    export(ensemble, tmp_path / "out", plugins, "reward_0")
    reward, _, tokenizer = opened(plugins, world, {"model": str(tmp_path / "out")})
    shown = groups(tokenizer)
    want_N = by_score(plugins, ensemble, shown)[0]
    assert values(reward, shown)[:-1] == pytest.approx(want_N.tolist()[:-1], abs=1e-5)
    assert reward.describe()["reads"] == "the sampled tokens"


@pytest.mark.parametrize("micro_tokens", [1, 512])
def test_a_classifier_of_three_labels_scores_one_of_them(plugins, world, tmp_path, micro_tokens):
    torch.manual_seed(3)
    labels = {0: "bad", 1: "so-so", 2: "good"}
    plain = AutoModelForSequenceClassification.from_pretrained(
        world.model, num_labels=3, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    plain.save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(world.model).save_pretrained(tmp_path / "three")
    for options, pick in (
        ({"output_label": "good"}, lambda logits_NL: logits_NL[:, 2]),
        (
            {"output_label": 0, "output": "probability"},
            lambda logits_NL: logits_NL.softmax(-1)[:, 0],
        ),
    ):
        given = {"model": str(tmp_path / "three"), **options}
        reward, _, tokenizer = opened(plugins, world, given)
        reward._classifier.micro_tokens = micro_tokens
        shown = groups(tokenizer)
        ids = [[*one.prompt, *one.tokens] for group in shown for one in group.sampled]
        with torch.no_grad():
            want = [pick(plain(torch.tensor([one])).logits).item() for one in ids]
        assert values(reward, shown) == pytest.approx(want, abs=1e-6)
    with pytest.raises(UserError, match=r"several labels: .* 0: bad, 1: so-so, 2: good"):
        opened(plugins, world, {"model": str(tmp_path / "three")})
    with pytest.raises(UserError, match="no label 'god'. Did you mean 'good'"):
        opened(plugins, world, {"model": str(tmp_path / "three"), "output_label": "god"})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A classifier of another family, with words of its own, that reads 12 tokens at most."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "what", "of", "heat", "?", "a", "rare", "joy", "loud", "user", ":"]
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=12
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        num_labels=1,
        pad_token_id=0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_classifier_of_other_words_reads_the_text_anew(plugins, world, bert):
    reward, _, tokenizer = opened(plugins, world, {"model": str(bert)})
    (shown,) = groups(tokenizer)[:1]
    asked = replace(shown, content="what of heat ? ", completions=["a rare joy", "loud", "a " * 9])
    ids = [[2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 9]]
    plain = AutoModelForSequenceClassification.from_pretrained(bert)
    with torch.no_grad():
        want = [plain.eval()(torch.tensor([one])).logits.item() for one in ids]
    (got,) = reward.score([asked])
    assert [score.value for score in got[:2]] == pytest.approx(want, abs=1e-6)
    assert got[2].value is None and "13 tokens are too many" in got[2].why
    turns = replace(asked, content=[{"role": "user", "content": "what of heat ?"}])
    with pytest.raises(UserError, match=r"no chat template.*reads: completion"):
        reward.score([turns])
    alone, _, _ = opened(plugins, world, {"model": str(bert), "reads": "completion"})
    with torch.no_grad():
        want = plain(torch.tensor([[6, 7, 8]])).logits.item()
    assert alone.score([turns])[0][0].value == pytest.approx(want, abs=1e-6)


def test_what_is_no_reward_model_is_refused(plugins, world, policy_run, bert, tmp_path):
    with pytest.raises(UserError, match="no reward model .it is a policy's adapter"):
        opened(plugins, world, {"from": str(policy_run)})
    with pytest.raises(UserError, match="no reward model .there is no such folder"):
        opened(plugins, world, {"from": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"no trained sequence classifier: .* score.weight"):
        opened(plugins, world, {"model": str(world.model)})
    with pytest.raises(UserError, match="cannot be loaded"):
        opened(plugins, world, {"model": str(tmp_path)})


def test_a_reward_model_of_another_vocabulary_is_refused(plugins, world, ensemble, tmp_path):
    """Its base reads ids that mean other words to the policy."""
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    tokenizer.add_tokens(["another"])
    base = AutoModelForSequenceClassification.from_pretrained(world.model, num_labels=1)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    reward = plugins.make("reward", "reward_model", {"from": str(ensemble)})
    config = ModelConfig(name=str(tmp_path / "base"), quantization="none")
    assert reward.adapters(config) == {}
    roles = Roles(
        load_base(ModelConfig(name=str(world.model), quantization="none"), torch.device("cpu")),
        None,
    )
    policy = LanguageModel(roles, dtype=torch.float32, micro_tokens=512)
    with pytest.raises(UserError, match="another vocabulary"):
        reward.open(RewardSetting(config, policy, tokenizer, 0))


def test_a_relative_path_is_kept_absolute(world, ensemble, monkeypatch, plugins):
    from trimtab.core.paths import absolute
    from trimtab.core.runfile import load

    monkeypatch.chdir(ensemble.parent)
    file = world.file(
        ensemble.parent / "with.yaml", reward=[{"name": "reward_model", "from": "run"}]
    )
    run = load(file, (), plugins).stages[0].run
    assert absolute(run, plugins).reward[0].options["from"] == str(ensemble.resolve())


def test_scores_are_those_of_plain_transformers(plugins, world, ensemble):
    from test_scoring import plain

    folder = ensemble / "adapter"
    reward, _, tokenizer = opened(plugins, world, {"from": str(folder)})
    shown = groups(tokenizer)
    ids = [[*one.prompt, *one.tokens] for group in shown for one in group.sampled if one.tokens]
    center = json.loads((folder / "scores.json").read_text())["center"]
    want = by_theirs(plain(world.model, folder), ids) - center
    assert values(reward, shown)[:-1] == want.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["adapter", "trunk"])
def test_a_policy_learns_from_the_reward_models_of_the_stage_before(
    world, plugins, tmp_path, critic
):
    """Policy, reference, critic and both reward models on one base; each role is left as it is."""
    models = {
        "name": "rm",
        "objective": {"name": "reward_model", "members": MEMBERS},
        "data": world.settings()["data"],
        "train": {"epochs": 1},
    }
    learning = {
        "name": "ppo",
        **world.learning("ppo"),
        "objective": {"name": "ppo", "critic": critic},
        "reward": [{"name": "reward_model", "from": "stages.rm"}],
        "train": {"steps": 2},
    }
    settings = world.settings()
    shared = {name: settings[name] for name in ("model", "rollout", "train")}
    shared["train"] = {name: v for name, v in shared["train"].items() if name != "epochs"}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**shared, "stages": [models, learning]}))
    ended = warm.trimtab("train", file, "--run", tmp_path / "run")
    assert ended.status == 0, ended.output
    home = tmp_path / "run" / "stages" / "ppo"
    for step in lines(home / "metrics.jsonl"):
        assert step["unscored"] == 0
    for sample in lines(home / "samples.jsonl"):
        parts = sample["parts"]
        members = [parts[f"reward_model/reward_{n}"] for n in range(MEMBERS)]
        assert sample["reward"] == pytest.approx(sum(members) / MEMBERS, abs=1e-5)
    assert sorted(path.name for path in (home / "roles").iterdir()) == ["critic"]
    (checkpoint,) = (home / "checkpoints").glob("step-2")
    saved = sorted(path.name for path in (checkpoint / "roles").iterdir())
    assert saved == ["critic.safetensors", "policy.safetensors"]
    assert len(load_scorer(tmp_path / "run", plugins).center) == MEMBERS
    with pytest.raises(UserError, match="it is a policy's adapter"):
        load_scorer(home, plugins)
    if critic == "trunk":
        with pytest.raises(UserError, match="a head on the policy's own states"):
            export(tmp_path / "run", tmp_path / "out", plugins, "critic")
        return
    export(tmp_path / "run", tmp_path / "out", plugins, "critic")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.num_labels == 1


def test_selection_takes_the_pairs_on_which_the_trained_members_disagree_most(
    plugins, world, ensemble, tmp_path
):
    """Of all 42 pairs of 14 rows, against scores of the tokens as the template has them."""
    rows = [
        {
            "prompt": turns(f"Question {n}?"),
            "responses": [f"{GOOD[n % 4]}, {n}", *BAD[n % 2 : n % 2 + 2]],
        }
        for n in range(14)
    ]
    shared = world.settings(plugins=[])
    settings = {
        "model": shared["model"],
        "source": {"name": "selection", "budget": 9, "per_prompt": 2},
        "data": {"train": write_jsonl(tmp_path / "rows.jsonl", rows)},
        "reward": [{"name": "reward_model", "from": str(ensemble), "weight": 0.5}],
        "train": {"rows": 5},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    ended = warm.trimtab("train", file, "--run", tmp_path / "run")
    assert ended.status == 0, ended.output
    tokenizer = load_tokenizer(str(world.model))
    expected = []
    for n, row in enumerate(rows):
        asked = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False
        )
        answers = [(*tokenizer(text).input_ids, 0) for text in row["responses"]]
        sampled = [Completion(tuple(asked), ids, truncated=False) for ids in answers]
        group = Group(prompt="", completions=row["responses"], sampled=sampled)
        one, other = by_score(plugins, ensemble, [group]).tolist()
        of_row = [
            (abs((one[a] - one[b]) - (other[a] - other[b])) / 2**0.5, n, [a, b])
            for a, b in combinations(range(3), 2)
        ]
        expected += sorted(of_row, reverse=True)[:2]
    expected = sorted(expected, reverse=True)[:9]
    assert expected[8][0] > 1e-3, "they do disagree"
    for made, (std, n, places) in zip(
        lines(tmp_path / "run/data/train.jsonl"), expected, strict=True
    ):
        assert made["prompt"] == rows[n]["prompt"]
        texts = [response[0]["content"] for response in made["responses"]]
        assert texts == [rows[n]["responses"][place] for place in places]
        assert made["disagreement"] == pytest.approx(std, rel=1e-4)
