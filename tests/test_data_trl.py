"""TRL's dataset formats, as its documentation shows them, are read as TRL reads them."""

from __future__ import annotations

import pytest
from data_fixtures import smollm
from datasets import Dataset
from trl import unpair_preference_dataset
from trl.data_utils import (
    apply_chat_template,
    is_conversational,
    maybe_extract_prompt,
    maybe_unpair_preference_dataset,
)

from trimtab.core.config import DataConfig
from trimtab.plugins.sources.convert import CONVERSIONS
from trimtab.plugins.sources.kinds import guessed, named
from trimtab.plugins.sources.making import Account
from trimtab.plugins.sources.rows import Row
from trimtab.plugins.sources.said import Label
from trimtab.plugins.sources.tokens import Encoder

USER = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}

FORMATS = {
    "standard language modeling": {"text": "The sky is blue."},
    "standard prompt-only": {"prompt": "The sky is"},
    "standard prompt-completion": {"prompt": "The sky is", "completion": " blue."},
    "standard preference": {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    "standard preference, implicit prompt": {
        "chosen": "The sky is blue.",
        "rejected": "The sky is green.",
    },
    "standard unpaired preference": {
        "prompt": "The sky is",
        "completion": " blue.",
        "label": True,
    },
    "conversational language modeling": {"messages": [USER, BLUE]},
    "conversational prompt-only": {"prompt": [USER]},
    "conversational prompt-completion": {"prompt": [USER], "completion": [BLUE]},
    "conversational preference": {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    "conversational preference, implicit prompt": {
        "chosen": [USER, BLUE],
        "rejected": [USER, GREEN],
    },
    "conversational unpaired preference": {
        "prompt": [USER],
        "completion": [GREEN],
        "label": False,
    },
}
KINDS = {
    "language modeling": "demonstrations",
    "prompt-only": "prompts",
    "prompt-completion": "demonstrations",
    "preference": "pairs",
    "preference, implicit prompt": "pairs",
    "unpaired preference": "labels",
}


def read(columns, kind):
    encoder = Encoder(smollm(), DataConfig(train="a row"))
    return encoder.encode([named(kind).example(columns)])[0]


def text(ids):
    return smollm().decode(ids).removesuffix("<|im_end|>")


@pytest.fixture(params=FORMATS)
def example(request):
    """The columns of a documented example, and the kind that it is."""
    return FORMATS[request.param], KINDS[request.param.split(maxsplit=1)[1]]


def test_every_documented_format_is_known_by_its_columns_and_read(example):
    columns, kind = example
    assert guessed(columns).name == kind
    row = read(columns, kind)
    assert isinstance(named(kind).example(columns).prompt, list) == is_conversational(columns)
    if "label" in columns:
        assert row.said == Label(columns["label"])


def test_the_texts_are_those_that_trl_trains_on(example):
    columns, kind = example
    row = read(columns, kind)
    theirs = maybe_extract_prompt(columns)
    if is_conversational(theirs):
        theirs = apply_chat_template(theirs, smollm())
    texts = [theirs[name] for name in ("completion", "chosen", "rejected") if name in theirs]
    if "text" in theirs:
        start = text(row.prompt) if row.prompted else ""
        whole = start + text(row.completions[0].ids)
        assert whole == theirs["text"].strip().removesuffix("<|im_end|>")
        return
    assert text(row.prompt) == theirs["prompt"]
    ours = [text(one.ids) for one in row.completions]
    assert ours == [one.strip("\n").removesuffix("<|im_end|>") for one in texts]


@pytest.mark.parametrize("style", ["standard", "conversational"])
def test_an_implicit_prompt_is_the_explicit_one(style):
    explicit = FORMATS[f"{style} preference"]
    implicit = FORMATS[f"{style} preference, implicit prompt"]
    assert maybe_extract_prompt(implicit) == maybe_extract_prompt(explicit)
    assert read(implicit, "pairs") == read(explicit, "pairs")


@pytest.mark.parametrize("style", ["standard", "conversational"])
def test_unpaired_pairs_are_the_labels_that_trl_makes(style):
    pair = FORMATS[f"{style} preference"]
    theirs = [dict(row) for row in unpair_preference_dataset(Dataset.from_list([pair]))]
    made = CONVERSIONS["pairs-to-labels"].made([Row(1, pair)], {}, Account("pairs-to-labels"))
    assert [dict(row.columns) for row in made] == theirs
    unpaired = FORMATS[f"{style} unpaired preference"]
    (same,) = maybe_unpair_preference_dataset(Dataset.from_list([unpaired]))
    assert read(same, "labels") == read(unpaired, "labels")
