"""What a reward run leaves scores the same in plain transformers, and through our commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import warm
from peft import PeftModel
from safetensors.torch import load_file
from test_processes import two
from tiny import relative
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from worlds import differences, lines, write_rows

from trimtab.core.batches import Demonstrations, sequences
from trimtab.core.errors import UserError
from trimtab.core.finished import export, load_model, load_scorer
from trimtab.core.seeds import mixed
from trimtab.plugins.registry import Plugins

ADAPTER = "adapter_model.safetensors"
REWARD = {"objective": {"name": "reward_model"}}
MEMBERS = 3
ENSEMBLE = {"objective": {"name": "reward_model", "members": MEMBERS}}


def with_another_pad(model: Path, folder: Path) -> Path:
    """The same model, but padding is a token that no row has."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 2}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(2)
    tokenizer.save_pretrained(folder)
    return folder


def trained(world, home, **changes):
    """A run's directory, by a real command."""
    file = world.file(home / "run.yaml", **changes)
    ended = warm.trimtab("train", file, "--run", home / "run")
    assert ended.status == 0, ended.output
    return home / "run", ended.output


@pytest.fixture(scope="module")
def single(world, tmp_path_factory):
    return trained(world, tmp_path_factory.mktemp("single"), **REWARD)


@pytest.fixture(scope="module")
def apart(world, tmp_path_factory):
    """Of a model whose padding is not its EOS."""
    home = tmp_path_factory.mktemp("apart")
    name = str(with_another_pad(world.model, home / "model"))
    return trained(world, home, **REWARD, model={"name": name})


@pytest.fixture(scope="module")
def ensemble(world, tmp_path_factory):
    return trained(world, tmp_path_factory.mktemp("ensemble"), **ENSEMBLE)


@pytest.fixture(scope="module")
def plugins():
    return Plugins()


def texts():
    """Ragged sequences of a chat, and one whose end is not EOS."""
    generator = torch.Generator().manual_seed(0)
    return [
        [*torch.randint(3, 384, (length,), generator=generator).tolist(), *end]
        for length, end in ((9, [0]), (4, [0]), (17, [0]), (6, []))
    ]


def by_ours(scorer, ids, center=0.0):
    """Of whole sequences, split anywhere into prompt and completion."""
    batch = Demonstrations(sequences([one[:3] for one in ids], [one[3:] for one in ids]))
    return scorer.score(batch)["responses"].members_RN + center


def plain(base, folder=None):
    """As transformers and PEFT load it, without a line of ours."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    return model if folder is None else PeftModel.from_pretrained(model, folder)


@torch.no_grad()
def by_theirs(model, ids):
    pad = model.config.pad_token_id
    width = max(map(len, ids))
    padded = torch.tensor([[*one, *[pad] * (width - len(one))] for one in ids])
    seen = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids])
    return model.eval()(padded, attention_mask=seen).logits[:, 0]


@pytest.mark.parametrize("run", ["single", "apart"])
def test_the_adapter_scores_the_same_in_plain_transformers(run, request, plugins):
    run, _ = request.getfixturevalue(run)
    scorer = load_scorer(run, plugins)
    base = json.loads((run / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    theirs = plain(base, run / "adapter")
    center = scorer.center["reward"]
    assert torch.equal(by_ours(scorer, texts())[0], by_theirs(theirs, texts()) - center)
    for one in texts():
        assert torch.equal(by_ours(scorer, [one])[0], by_theirs(theirs, [one]) - center)


def test_every_member_scores_the_same_in_plain_transformers(ensemble, world, plugins):
    run, _ = ensemble
    scorer = load_scorer(run, plugins)
    got_RN = by_ours(scorer, texts())
    folders = [run / "adapter", run / "roles/reward_1", run / "roles/reward_2"]
    for got_N, folder in zip(got_RN, folders, strict=True):
        center = json.loads((folder / "scores.json").read_text())["center"]
        assert torch.equal(got_N, by_theirs(plain(world.model, folder), texts()) - center)
    assert len({float(score) for score in got_RN[:, 0]}) == MEMBERS


def test_the_center_is_the_mean_of_the_held_out_completions(single, ensemble):
    for run, measures in (
        (single[0], {"adapter": "score"}),
        (ensemble[0], {"roles/reward_1": "score/reward_1"}),
    ):
        last = lines(run / "evals.jsonl")[-1]
        for folder, measure in measures.items():
            said = json.loads((run / folder / "scores.json").read_text())
            assert said["center"] == last[measure]["value"]
            assert said["rows"] == 4
    assert json.loads((single[0] / "adapter/scores.json").read_text())["role"] == "reward"


def test_a_member_is_the_run_of_its_own_seed(world, ensemble, tmp_path):
    run, _ = ensemble
    first = {"checkpoint_every": 1, "seed": 0}
    for role, seed in (("reward_0", 0), ("reward_2", mixed(0, "reward_2"))):
        home = tmp_path / role
        home.mkdir()
        alone, _ = trained(world, home, **REWARD, train={**first, "seed": seed})
        folder = run / ("adapter" if role == "reward_0" else f"roles/{role}")
        one, other = load_file(alone / "adapter" / ADAPTER), load_file(folder / ADAPTER)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        said = [json.loads((at / "scores.json").read_text()) for at in (alone / "adapter", folder)]
        assert said[0]["center"] == pytest.approx(said[1]["center"], rel=1e-6)


def test_an_ensemble_that_was_stopped_ends_with_the_same_bits(world, ensemble, tmp_path):
    import interrupting

    file = world.file(tmp_path / "run.yaml", **ENSEMBLE, plugins=[interrupting.__file__])
    run = tmp_path / "run"
    stopped = warm.trimtab("train", file, "--run", run, INTERRUPT="2:SIGTERM")
    assert stopped.status == 143, stopped.output
    resumed = warm.trimtab("resume", run)
    assert resumed.status == 0, resumed.output
    names = [name for name in differences(run, ensemble[0]) if not name.startswith("config")]
    assert [name for name in names if "env.json" not in name] == []


def test_two_processes_train_the_same_ensemble(world, ensemble, tmp_path):
    file = world.file(tmp_path / "run.yaml", **ENSEMBLE)
    ended = two("train", file, "--run", tmp_path / "run")
    assert [each.status for each in ended] == [0, 0], ended
    for folder in ("adapter", "roles/reward_1", "roles/reward_2"):
        one, other = (load_file(run / folder / ADAPTER) for run in (tmp_path / "run", ensemble[0]))
        assert one.keys() == other.keys()
        assert all(relative(one[name], other[name]) < 1e-5 for name in one)


def test_a_member_alone_is_named_by_its_folder(ensemble, plugins):
    run, _ = ensemble
    whole = load_scorer(run, plugins)
    alone = load_scorer(run / "roles/reward_1", plugins)
    assert list(whole.center) == ["reward_0", "reward_1", "reward_2"]
    assert list(alone.center) == ["reward_1"]
    assert torch.equal(by_ours(alone, texts())[0], by_ours(whole, texts())[1])
    assert list(load_scorer(run / "adapter", plugins).center) == ["reward_0"]


def test_micro_batches_do_not_change_a_score(ensemble, plugins):
    scorer = load_scorer(ensemble[0], plugins)
    want = by_ours(scorer, texts())
    scorer.model.micro_tokens = 1
    torch.testing.assert_close(by_ours(scorer, texts()), want, rtol=1e-5, atol=1e-6)


def test_mean_and_spread_are_over_members(ensemble, plugins):
    scorer = load_scorer(ensemble[0], plugins)
    batch = Demonstrations(sequences([[5, 6], [7]], [[8, 9, 0], []]))
    scored = scorer.score(batch)["responses"]
    assert scored.members_RN.shape == (MEMBERS, 2)
    torch.testing.assert_close(scored.mean_N, scored.members_RN.sum(0) / MEMBERS)
    torch.testing.assert_close(scored.spread_N, scored.members_RN.std(0))
    assert scored.members_RN[:, 1].tolist() == [0.0] * MEMBERS  # nothing was said


def test_an_exported_reward_model_is_a_plain_classifier(single, plugins, tmp_path):
    run, _ = single
    ended = warm.trimtab("export", run, tmp_path / "out")
    assert (ended.status, ended.output) == (0, f"made {tmp_path / 'out'}\n")
    scorer = load_scorer(run, plugins)
    got = by_theirs(plain(tmp_path / "out"), texts()) - scorer.center["reward"]
    torch.testing.assert_close(got, by_ours(scorer, texts())[0], rtol=1e-4, atol=1e-5)
    assert (tmp_path / "out/scores.json").read_bytes() == (
        run / "adapter/scores.json"
    ).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_of_an_ensemble_one_member_is_exported(ensemble, world, plugins, tmp_path):
    run, _ = ensemble
    with pytest.raises(UserError, match=r"choose a member with --role \(reward_0 in .*adapter, "):
        export(run, tmp_path / "no", plugins)
    with pytest.raises(UserError, match="no member 'reward_9'. Did you mean"):
        export(run, tmp_path / "no", plugins, "reward_9")
    assert not (tmp_path / "no").exists()
    want = by_theirs(plain(world.model, run / "roles/reward_1"), texts())
    for where, role in ((run, "reward_1"), (run / "roles/reward_1", None)):
        out = tmp_path / str(role)
        export(where, out, plugins, role)
        torch.testing.assert_close(by_theirs(plain(out), texts()), want, rtol=1e-4, atol=1e-5)


def test_a_reward_model_samples_nothing(single, plugins):
    with pytest.raises(UserError, match=r"is a reward model: .*Try: trimtab score .*run FILE"):
        load_model(str(single[0]), plugins)
    assert f"try   trimtab score {single[0]} FILE" in single[1]


def test_what_is_no_reward_model_scores_nothing(world, plugins):
    with pytest.raises(UserError, match="is no reward model"):
        load_scorer(world.model, plugins)


def test_the_card_says_how_to_load_it(single, ensemble):
    card = (single[0] / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "trimtab score" in card
    assert "kl_sequence" not in card
    card = (ensemble[0] / "README.md").read_text()
    assert all(f"`{at}`" in card for at in ("adapter", "roles/reward_1", "roles/reward_2"))


def say(prompt, *answers):
    """Turns of one prompt, and each answer as turns."""
    asked = [{"role": "user", "content": prompt}]
    return asked, [[{"role": "assistant", "content": answer}] for answer in answers]


def scored(where, file, *options):
    ended = warm.trimtab("score", where, file, "--json", *options)
    assert ended.status == 0, ended.output
    said = [json.loads(line) for line in ended.output.splitlines() if line.startswith("{")]
    return said[:-1], said[-1], ended.output


def test_score_reads_rows_of_every_kind_in_the_order_of_the_file(single, plugins, tmp_path):
    prompt, (bad, good, other) = say("Review Heat.", "loud", "a rare joy", "see it twice")
    rows = [
        {"prompt": prompt, "responses": [bad, good, other], "ranks": [3, 1, 2]},
        {"prompt": prompt, "responses": [other, bad]},
        {"prompt": prompt, "chosen": good, "rejected": bad},
        {"prompt": prompt, "chosen": bad, "rejected": good, "preference": 0.1},
        {"prompt": prompt, "completion": good, "label": True},
        {"prompt": prompt, "completion": ""},
        {"messages": [*prompt, *other]},
    ]
    file = write_rows(tmp_path / "rows.jsonl", lambda n: rows[n - 1], len(rows))
    found, last, output = scored(single[0], file)
    by_row = {line["row"]: line["scores"] for line in found}
    b, g, o = by_row[1]
    assert b != g != o
    close = pytest.approx
    assert by_row == {
        1: [b, g, o],
        2: close([o, b], rel=1e-4),
        3: close([g, b], rel=1e-4),
        4: close([b, g], rel=1e-4),
        5: close([g], rel=1e-4),
        7: close([o], rel=1e-4),
    }
    assert "dropped row 6: " in output
    assert last["kept"] == 6
    assert [row["row"] for row in last["dropped"]] == [6]
    # g > b of rows 1, 3 and 4; g > o and o > b of row 1; row 2 compares nothing
    right = [g > b, g > o, o > b, g > b, g > b]
    assert last["measures"]["accuracy"]["value"] == close(sum(right) / 5)
    assert last["measures"]["accuracy"]["n"] == 3
    assert set(found[0]) == {"row", "scores"}


def test_score_of_an_ensemble_says_what_each_member_says(ensemble, world):
    found, last, _ = scored(ensemble[0], world.pairs)
    assert len(found) == last["kept"] == 7
    for line in found:
        members = torch.tensor(list(line["members"].values()))
        assert list(line["members"]) == ["reward_0", "reward_1", "reward_2"]
        assert line["scores"] == pytest.approx(members.mean(0).tolist(), abs=1e-5)
        assert line["spread"] == pytest.approx(members.std(0).tolist(), abs=1e-5)


def test_held_out_rows_score_0_on_average(single, ensemble, world):
    held_out = f"{world.pairs.with_suffix('')}-eval.jsonl"
    for run, _ in (single, ensemble):
        found, last, _ = scored(run, held_out)
        scores = [score for line in found for score in line["scores"]]
        assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-5)
        evaluated = lines(run / "evals.jsonl")[-1]
        for name in ("accuracy", "ece"):
            assert last["measures"][name]["value"] == pytest.approx(
                evaluated[name]["value"], abs=1e-5
            )


def test_score_prints_a_table(single, world):
    ended = warm.trimtab("score", single[0], world.pairs, "--limit", "5")
    assert ended.status == 0, ended.output
    table = [line.split() for line in ended.output.splitlines()]
    assert [line[0] for line in table[:6]] == ["1", "2", "3", "4", "5", "5"]
    assert [len(line) for line in table[:5]] == [3] * 5
    assert "5 of 5 rows scored\n  score " in ended.output


def test_score_takes_other_names_of_columns(single, tmp_path):
    prompt, (good,) = say("Review Heat.", "a rare joy")
    file = write_rows(tmp_path / "rows.jsonl", lambda n: {"prompt": prompt, "answer": good}, 2)
    found, _, _ = scored(single[0], file, "--column", "completion=answer")
    assert len(found) == 2
    ended = warm.trimtab("score", single[0], file)
    assert ended.status == 2
    assert "no row can be scored" in ended.output


def test_evaluate_says_the_last_evaluation_again(ensemble):
    ended = warm.trimtab("evaluate", ensemble[0], "--json")
    assert ended.status == 0, ended.output
    found = json.loads(ended.output)["measures"]
    last = {
        name: one for name, one in lines(ensemble[0] / "evals.jsonl")[-1].items() if name != "step"
    }
    assert found.keys() == last.keys()
    for name, one in found.items():
        assert one["value"] == pytest.approx(last[name]["value"], abs=1e-6), name


def test_a_reward_model_starts_from_a_policy_or_from_another_one(world, single, tmp_path):
    (tmp_path / "sft").mkdir()
    sft, _ = trained(world, tmp_path / "sft", **world.demonstrating())
    begun = {}
    for name, start in (("policy", sft), ("reward", single[0])):
        (tmp_path / name).mkdir()
        train = {"epochs": 1, "learning_rate": 1e-12}
        run, _ = trained(
            world, tmp_path / name, **REWARD, model={"start": str(start)}, train=train
        )
        begun[name] = load_file(run / "adapter" / ADAPTER)
    policy, reward = (
        load_file(sft / "adapter" / ADAPTER),
        load_file(single[0] / "adapter" / ADAPTER),
    )
    head = "base_model.model.score.weight"
    assert {*begun["policy"]} == {*policy, head}
    assert {*begun["reward"]} == {*reward}
    for begun_as, want in ((begun["policy"], policy), (begun["reward"], reward)):
        for weight, tensor in want.items():
            torch.testing.assert_close(begun_as[weight], tensor, rtol=0, atol=1e-9)
    assert not torch.equal(begun["policy"][head], reward[head])
