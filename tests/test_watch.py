"""What is over-optimised, told from logs alone; and whole runs that are watched."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deaths
import pytest
import warm
from safetensors.torch import load_file
from test_processes import two
from worlds import World, demonstration, differences, lines, write_rows

from trimtab.core.config import RunFile, SelectedReward
from trimtab.core.training import WatchConfig
from trimtab.core.watch import Watch, of_the_result

PROXY = SelectedReward(name="function", label="proxy")
GOLD = SelectedReward(name="function", label="gold", weight=0.0)
Scores = Sequence[float | None]


def watch(*rewards: SelectedReward, trained: bool = True, **options: Any) -> Watch:
    """Of ``gold``, with one evaluation enough."""
    section = WatchConfig(reward="gold", **{"patience": 1, **options})
    return Watch(section, rewards or (PROXY, GOLD), trained=trained)


def logged(step: int, proxy: Scores, gold: Scores) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A line of ``evals.jsonl`` and the held-out answers of that step."""
    scored = [value for value in gold if value is not None]
    mean = sum(scored) / len(scored) if scored else None
    measure = {"value": mean, "low": mean, "high": mean, "n": len(scored)}
    answers = [
        {"step": step, "held_out": True, "reward": p, "parts": {"proxy": p, "gold": g}}
        for p, g in zip(proxy, gold, strict=True)
    ]
    return {"step": step, **({"reward/gold": measure} if scored else {})}, answers


def seen(watching: Watch, *evaluations: tuple[Scores, Scores]) -> Watch:
    """After evaluations at steps 0, 10, 20, ..."""
    for number, (proxy, gold) in enumerate(evaluations):
        watching.see(*logged(10 * number, proxy, gold))
    return watching


START = ([1.0] * 4, [5.0] * 4)
OVER = ([2.0] * 4, [4.0, 3.0, 2.0, 3.0])
"""The differences to the start are -1, -2, -3 and -2."""


def test_it_is_over_when_the_proxy_has_risen_and_gold_fallen_beyond_its_interval():
    look = seen(watch(), START, OVER).looks[-1]
    assert look.over and look.since == 0 and look.rise == 1.0
    # mean -2, sd sqrt(2/3), t(0.975, 3) = 3.182446: -2 +- 3.182446 * 0.816497 / 2
    assert look.difference.value == -2.0 and look.difference.n == 4
    assert look.difference.low == pytest.approx(-3.299228, abs=1e-6)
    assert look.difference.high == pytest.approx(-0.700772, abs=1e-6)


@pytest.mark.parametrize(
    "evaluation",
    [
        ([1.0] * 4, OVER[1]),
        ([0.5] * 4, OVER[1]),
        ([2.0] * 4, [5.0, 1.0, 5.0, 4.0]),
        ([2.0] * 4, [6.0] * 4),
        ([2.0] * 4, [None] * 4),
        ([2.0] * 4, [1.0, None, None, None]),
        ([None] * 4, OVER[1]),
    ],
    ids=[
        *("the proxy stays", "the proxy falls", "gold falls within its interval", "gold rises"),
        *("gold judges nothing", "gold judges one answer", "the proxy judges nothing"),
    ],
)
def test_otherwise_it_is_not(evaluation):
    watching = seen(watch(), START, evaluation)
    assert not watching.looks[-1].over and watching.stopped is None


def test_the_interval_is_of_the_same_prompts():
    """Between prompts gold differs by 100 and more, between evaluations by 1."""
    gold = [0.0, 100.0, 200.0, 300.0]
    watching = seen(
        watch(), ([1.0] * 4, gold), ([2.0] * 4, [g - 1 - 0.01 * g / 100 for g in gold])
    )
    assert watching.stopped == 10


def test_what_was_not_judged_both_times_leaves_the_pairs():
    watching = seen(
        watch(),
        ([1.0, 1.0, 9.0, 1.0], [5.0, 5.0, None, 5.0]),
        ([2.0, 2.0, None, 2.0], [4.0, 3.5, 9.0, None]),
    )
    look = watching.looks[-1]
    assert look.difference.n == 2 and look.difference.value == -1.25 and look.rise == 1.0
    assert watching.best.step == 10, "its mean over what it judged is 5.5"


def test_the_best_has_the_highest_mean_and_of_equals_is_the_first():
    same, better = [5.0] * 4, [7.0, 5.0, 5.0, 5.0]
    watching = seen(watch(), START, ([2.0] * 4, better), ([3.0] * 4, same), ([3.0] * 4, better))
    assert watching.best.step == 10 and watching.best.gold == 5.5
    assert [look.since for look in watching.looks] == [None, 0, 10, 10]


def test_it_stops_after_patience_in_a_row():
    fine = ([2.0] * 4, [5.0, 5.0, 5.0, 4.0])
    for patience, stopped in ((1, 10), (2, 40), (3, 50), (4, None)):
        watching = watch(patience=patience)
        steps = []
        for number, evaluation in enumerate((START, OVER, fine, OVER, OVER, OVER)):
            seen_before = watching.in_a_row
            watching.see(*logged(10 * number, *evaluation))
            steps.append(watching.stopped)
            assert watching.in_a_row == (seen_before + 1 if evaluation is OVER else 0)
        assert next((s for s in steps if s is not None), None) == stopped
        assert watching.stopped == stopped, "later evaluations change nothing"


def test_without_stop_it_is_said_all_the_same():
    watching = seen(watch(stop=False), START, OVER)
    assert watching.stopped is None and watching.over.step == 10
    assert watching.why == (
        "since step 0 the trained reward moved by +1 and gold by -2 [-3.3, -0.701], on the same "
        "4 prompts"
    )


@pytest.mark.parametrize("rewards, trained", [((PROXY, GOLD), False), ((GOLD,), True)])
def test_where_no_reward_is_trained_on_the_fall_alone_counts(rewards, trained):
    falls = ([0.0] * 4, OVER[1])
    watching = seen(watch(*rewards, trained=trained), START, falls)
    assert watching.stopped == 10 and watching.looks[-1].proxy is None
    assert "trained reward" not in watching.why


def test_the_proxy_is_the_weighted_sum_of_what_is_trained_on():
    half = SelectedReward(name="function", label="proxy", weight=-0.5, clip=(0.0, 1.5))
    watching = seen(watch(half, GOLD), START, OVER)
    assert [look.proxy for look in watching.looks] == [-0.5, -0.75]
    assert not watching.looks[-1].over, "what is trained on has fallen"


def test_a_standardized_reward_is_compared_by_its_spread_at_the_start():
    """By its running mean it would stay where it is."""
    standardized = SelectedReward(name="function", label="proxy", standardize=True)
    start, later = ([1.0, 5.0, 1.0, 5.0], START[1]), ([7.0, 11.0, 7.0, 11.0], OVER[1])
    watching = seen(watch(standardized, GOLD), start, later)
    assert watching.looks[-1].rise == 6.0 / 2.0 and watching.stopped == 10
    constant = seen(watch(standardized, GOLD), START, OVER)
    assert constant.looks[-1].rise == 1.0


def test_a_log_decides_what_was_decided_as_it_grew():
    draw = random.Random(0)
    evals, samples = [], []
    growing = watch(patience=2)
    for step in range(8):
        proxy = [step + draw.gauss(0, 1) for _ in range(16)]
        gold = [-abs(step - 3) + draw.gauss(0, 1) for _ in range(16)]
        evaluation, answers = logged(step, proxy, gold)
        growing.see(evaluation, answers)
        evals.append(json.loads(json.dumps(evaluation)))
        samples += [{"step": step, "held_out": False}, *json.loads(json.dumps(answers))]
        at_once = watch(patience=2)
        at_once.read(evals, samples)
        assert at_once.document() == growing.document()
    assert (growing.best.step, growing.stopped) == (3, 5)


@pytest.mark.slow
def test_how_often_luck_alone_stops_a_run():
    """As WatchConfig says: gold stays flat, a third of its variance is the prompts'."""
    draw = random.Random(0)
    stops = dict.fromkeys((1, 2, 3), 0)
    for _ in range(400):
        of_prompts = [draw.gauss(0, 0.3**0.5) for _ in range(64)]
        watching = watch()
        for step in range(12):
            gold = [prompt + draw.gauss(0, 0.7**0.5) for prompt in of_prompts]
            watching.see(*logged(step, [float(step)] * 64, gold))
        for patience in stops:
            row = "".join("x" if look.over else "." for look in watching.looks)
            stops[patience] += "x" * patience in row
    assert [stops[n] / 400 for n in (1, 2, 3)] == pytest.approx([0.56, 0.13, 0.04], abs=0.06)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"watch": {"reward": "golf"}}, "no reward is labelled 'golf'. Did you mean 'gold'?"),
        ({"train": {"eval_every": None}}, "give train.eval_every, and train.eval_samples above 0"),
        ({"train": {"eval_every": 1, "eval_samples": 0}}, "give train.eval_every"),
    ],
)
def test_a_run_file_that_cannot_be_watched_is_refused(changes, message):
    file = {
        "data": {"train": "rows.jsonl"},
        "objective": {"name": "grpo"},
        "reward": [PROXY.model_dump(), GOLD.model_dump()],
        "watch": {"reward": "gold"},
        "train": {"eval_every": 1},
    }
    RunFile.model_validate(file)
    with pytest.raises(ValueError, match="watch") as refused:
        RunFile.model_validate({**file, **changes})
    assert message in str(refused.value)


def settings(world: World, **changes: Any) -> dict[str, Any]:
    """GRPO on the number of letters, watched by a reward for which five are best."""
    eval_rows = world.home / "many-eval.jsonl"
    if not eval_rows.exists():
        write_rows(eval_rows, lambda n: demonstration(n + 7), 32)
    rewards = [
        {"name": "function", "function": "rewarding:letters", "label": "proxy"},
        {"name": "function", "function": "rewarding:few_letters", "label": "gold", "weight": 0},
    ]
    train = {"epochs": None, "steps": 8, "rows": 16, "eval_samples": 32, "eval_every": 1}
    train |= {"learning_rate": 0.04, "warmup": 0, "seed": 1, "micro_tokens": 2048}
    whole = {
        "data": {"train": str(world.demonstrations), "eval": str(eval_rows)},
        "objective": {"name": "grpo", "beta": 0.0},
        "reward": rewards,
        "rollout": {"group": 4, "max_new_tokens": 8},
        "watch": {"reward": "gold", "patience": 1},
        "train": {**train, "checkpoint_every": 3, "keep": 1, **changes.pop("train", {})},
    }
    return {**whole, **changes}


def trained(file: Path, directory: Path) -> str:
    """Train to the end; what was said, in one line."""
    ended = warm.trimtab("train", file, "--run", directory)
    assert ended.status == 0, ended.output
    return " ".join(ended.output.split())


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A watched run that was stopped."""
    import interrupting

    home = tmp_path_factory.mktemp("watched")
    plugins = {"plugins": [interrupting.__file__]}
    said = trained(world.file(home / "run.yaml", **settings(world), **plugins), home / "run")
    (home / "said.txt").write_text(said)
    return home / "run"


def test_a_run_that_is_over_optimised_ends(run):
    found = json.loads((run / "watch.json").read_text())
    stopped = found["stopped"]
    assert stopped is not None and 0 < found["best"] < stopped < 8
    assert json.loads((run / "run.json").read_text()) == {
        "state": "finished",
        "step": stopped,
        "error": None,
    }
    assert [record["step"] for record in lines(run / "metrics.jsonl")][-1] == stopped
    evals = lines(run / "evals.jsonl")
    assert [look["step"] for look in found["evaluations"]] == [e["step"] for e in evals]
    for look, evaluation in zip(found["evaluations"], evals, strict=True):
        assert look["gold"] == evaluation["reward/gold"]["value"]
        assert look["proxy"] == pytest.approx(evaluation["reward"]["value"])
        assert look["over"] is (look["step"] == stopped)
    assert found["best"] == max(evals, key=lambda e: e["reward/gold"]["value"])["step"]
    last = found["evaluations"][-1]
    assert last["rise"] > 0 > last["difference"]["high"] and found["why"].startswith("since step")
    said = (run.parent / "said.txt").read_text()
    assert f"over-optimised, so step {stopped} is the last: {found['why']}" in said
    assert f"the result is of step {found['best']}, the best by gold" in said


def test_the_best_is_kept_and_is_the_result(run):
    found = json.loads((run / "watch.json").read_text())
    best = found["best"]
    assert found["adapter"] == best and found["checkpoint"] == f"checkpoints/best/step-{best}"
    assert [path.name for path in (run / "checkpoints/best").iterdir()] == [f"step-{best}"]
    assert (run / f"checkpoints/step-{found['stopped']}").is_dir(), "where it ended is kept too"
    weights = "adapter_model.safetensors"
    assert (run / "best" / weights).read_bytes() == (run / "adapter" / weights).read_bytes()
    saved = load_file(run / found["checkpoint"] / "roles/policy.safetensors")
    kept = load_file(run / "best" / weights)
    assert len(saved) == len(kept)
    assert all(
        any(name == of and tensor.equal(value) for of, value in kept.items())
        for name, tensor in saved.items()
    )
    assert of_the_result(run, lines(run / "evals.jsonl"))["step"] == best


def test_the_card_says_which_step_it_is_of(run):
    found = json.loads((run / "watch.json").read_text())
    best, stopped = found["best"], found["stopped"]
    card = (run / "README.md").read_text()
    assert f"in\n{stopped} of 8 steps" in card
    assert f"- Watched: `gold`. The result is of step {best}, the best by it." in card
    assert f"Over-optimised, and so stopped: {found['why']}" in card
    assert f"| measure | step 0 | step {best} | step {stopped} | n |" in card
    assert f"- step {best}, reward" in card


def test_a_run_that_was_stopped_takes_no_step_more(run):
    before = (run / "metrics.jsonl").read_text()
    ended = warm.trimtab("resume", run)
    assert ended.status == 0 and "is finished: nothing is left to do" in " ".join(
        ended.output.split()
    )
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_the_last_may_be_the_result_and_the_best_is_kept_beside_it(run, world, tmp_path):
    changes = settings(world, watch={"reward": "gold", "patience": 1, "result": "last"})
    said = trained(world.file(tmp_path / "run.yaml", **changes), tmp_path / "run")
    found = json.loads((tmp_path / "run/watch.json").read_text())
    assert found["adapter"] == found["stopped"]
    assert f"the result is of the last step, {found['stopped']}; best/ is of step" in said
    weights = "adapter_model.safetensors"
    best = (run / "best" / weights).read_bytes()
    assert (tmp_path / "run/best" / weights).read_bytes() == best
    assert (tmp_path / "run/adapter" / weights).read_bytes() != best
    last = tmp_path / f"run/checkpoints/step-{found['stopped']}/roles/policy.safetensors"
    kept = load_file(tmp_path / "run/adapter" / weights)
    assert all(tensor.equal(kept[name]) for name, tensor in load_file(last).items())
    assert "the last; the best by it is" in (tmp_path / "run/README.md").read_text()


def offline(world: World, function: str, **watching: Any) -> dict[str, Any]:
    """Three steps of SFT whose held-out answers a reward scores."""
    reward = {"name": "function", "function": f"rewarding:{function}", "label": "gold"}
    return {
        **world.learning("sft"),
        "reward": [reward],
        "watch": {"reward": "gold", **watching},
        "train": {"epochs": None, "steps": 2, "eval_every": 1, "eval_samples": 4},
    }


def test_a_start_that_nothing_beats_is_the_result_and_that_is_said_loudly(world, tmp_path):
    said = trained(
        world.file(tmp_path / "run.yaml", **offline(world, "the_same")), tmp_path / "run"
    )
    found = json.loads((tmp_path / "run/watch.json").read_text())
    assert (found["best"], found["adapter"], found["stopped"]) == (0, 0, None)
    assert found["why"] == "never over-optimised; gold was best at step 0, 0.5"
    assert all(look["proxy"] is None for look in found["evaluations"])
    assert "NO STEP WAS BETTER THAN THE START by gold (0.5)" in said
    assert "watch: gold has weight 1, so it is trained on too" in said
    kept = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in kept.items() if "lora_B" in name)
    assert (
        "so nothing that was learned since was better" in (tmp_path / "run/README.md").read_text()
    )


@pytest.mark.parametrize("lacking", ["scores", "a policy"])
def test_what_cannot_be_watched_is_refused_at_once(world, tmp_path, lacking):
    changes = offline(world, "nothing")
    message = "no held-out answer could be scored by gold at step 0"
    if lacking == "a policy":
        changes |= world.learning("reward_model")
        message = "the objective 'reward_model' trains no policy"
    file = world.file(tmp_path / "run.yaml", **changes)
    ended = warm.trimtab("train", file, "--run", tmp_path / "run")
    assert ended.status == 2 and message in " ".join(ended.output.split())


def died(run: Path, directory: Path, step: int, event: int | str) -> bool:
    """Train as the run did, to a death at a change of the disk; False: it ended before."""
    ended = warm.trimtab(
        *("train", run.parent / "run.yaml", "--run", directory), INTERRUPT=f"{step}:{event}"
    )
    assert ended.status in (0, deaths.DIED), ended.output
    return ended.status == deaths.DIED


def assert_it_ends_alike(run: Path, directory: Path) -> None:
    """Go on with it; it ends with the bits of the run that nothing interrupted."""
    ended = warm.trimtab("resume", directory)
    assert ended.status == 0, ended.output
    assert differences(directory, run) == []


@pytest.mark.parametrize(
    "step, event",
    [
        pytest.param(1, 40, id="its best"),
        pytest.param(4, 45, id="its last", marks=pytest.mark.slow),
    ],
)
def test_a_death_while_a_step_is_kept_changes_nothing(run, tmp_path, step, event):
    assert died(run, tmp_path / "run", step, event)
    assert_it_ends_alike(run, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("step, events", [(1, range(30, 90, 2)), (4, range(30, 240, 3))])
def test_a_death_at_any_change_of_the_disk_changes_nothing(
    run, tmp_path, step, events, record_property
):
    """After the step that is the best, and after the one that is the last: between evaluation,
    checkpoint of the best, checkpoint, decision and results."""
    count = 0
    for event in events:
        if not died(run, tmp_path / str(event), step, event):
            break
        assert_it_ends_alike(run, tmp_path / str(event))
        count += 1
    assert count >= 25
    record_property("deaths", count)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_results_that_were_lost_are_made_again_without_a_step_more(run, tmp_path, damaged):
    """From the checkpoint of the best; where that is damaged, from the last, and it is said."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "adapter")
    found = json.loads((run / "watch.json").read_text())
    if damaged:
        (copy / found["checkpoint"] / "roles/policy.safetensors").write_bytes(b"")
    ended = warm.trimtab("resume", copy)
    assert ended.status == 0, ended.output
    now = json.loads((copy / "watch.json").read_text())
    if damaged:
        assert "is damaged: roles/policy.safetensors is empty" in " ".join(ended.output.split())
        assert now == {**found, "adapter": found["stopped"]}
    else:
        assert differences(copy, run) == []


@pytest.mark.slow
def test_two_processes_decide_alike_and_resume_to_the_same_bits(run, tmp_path):
    file, whole, stopped = run.parent / "run.yaml", tmp_path / "whole", tmp_path / "stopped"
    assert [each.status for each in two("train", file, "--run", whole)] == [0, 0]
    found = json.loads((whole / "watch.json").read_text())
    assert found["stopped"] is not None, "nobody waits for a step that the other does not take"
    ended = two("train", file, "--run", stopped, INTERRUPT="2:SIGTERM")
    assert [each.status for each in ended] == [143, 143], ended
    assert [each.status for each in two("resume", stopped)] == [0, 0]
    assert differences(stopped, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_instants(run, tmp_path, seed):
    draw = random.Random(seed)
    for _ in range(3):
        begun = (tmp_path / "run/config.yaml").exists()
        words = ["resume"] if begun else ["train", run.parent / "run.yaml", "--run"]
        running = warm.start(*words, tmp_path / "run")
        time.sleep(draw.uniform(0.1, 2.5))
        running.process.kill()
        running.end()
    if not (tmp_path / "run/config.yaml").exists():
        trained(run.parent / "run.yaml", tmp_path / "run")
    assert_it_ends_alike(run, tmp_path / "run")
