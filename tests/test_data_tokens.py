"""Token ids: prompts are prefixes, completions end with an EOS action, masks follow positions."""

from __future__ import annotations

import pytest
from data_fixtures import TEMPLATE, answer, encoded, smollm, turns, words
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer
from trl.data_utils import apply_chat_template, extract_prompt

from trimtab import Pairs
from trimtab.core.errors import UserError
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, PAIRS
from trimtab.plugins.sources.rows import BadRow
from trimtab.plugins.sources.said import Preference

EOS = 2
"""Of SmolLM2: <|im_end|>, which is its padding too."""


def text(ids):
    return smollm().decode(ids)


def trained(completion):
    return [text(completion.ids[begin:end]) for begin, end in completion.spans]


def test_plain_text_ends_with_one_eos_action():
    row = encoded({"prompt": "The sky is", "completion": " blue."})
    assert text(row.prompt) == "The sky is"
    assert trained(row.completions[0]) == [" blue.<|im_end|>"]
    already = encoded({"prompt": "The sky is", "completion": " blue.<|im_end|>"})
    assert already.completions == row.completions


def test_eos_is_trained_though_it_is_the_padding_too():
    assert smollm().pad_token_id == smollm().eos_token_id == EOS
    rows = [encoded({"prompt": "a", "completion": c}) for c in (" b", " b c d e")]
    responses = DEMONSTRATIONS.stack(rows).responses
    for row, length in enumerate(responses.length_N.tolist()):
        assert responses.tokens_NT[row, length - 1] == EOS
        assert responses.mask_NT[row, length - 1]
        assert not responses.mask_NT[row, length:].any()
    assert responses.count_N.tolist() == responses.length_N.tolist() == [2, 5]


def test_a_conversation_ends_with_the_end_of_its_turn_and_nothing_after_it():
    row = encoded({"prompt": turns("Hi"), "completion": answer("Hello.")})
    assert text(row.prompt).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert trained(row.completions[0]) == ["Hello.<|im_end|>"]


def test_only_the_turns_of_the_assistant_are_trained():
    row = encoded({"messages": turns("one", "two", "three", "four", "five")})
    (completion,) = row.completions
    assert trained(completion) == ["two<|im_end|>", "four<|im_end|>"]
    assert text(completion.ids) == (
        "two<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>"
    )
    short = encoded({"messages": turns("one", "two")})
    mask_NT = DEMONSTRATIONS.stack([row, short]).responses.mask_NT
    assert mask_NT.sum(1).tolist() == [4, 2]
    assert smollm().decode(DEMONSTRATIONS.stack([row]).responses.tokens_NT[0][mask_NT[0]]) == (
        "two<|im_end|>four<|im_end|>"
    )


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": turns("Hi"), "chosen": answer("Yes."), "rejected": answer("No, never.")},
        {"prompt": turns("Hi", "Yo", "So?"), "chosen": answer("Yes"), "rejected": answer("N ")},
        {"chosen": turns("Hi", "Yes"), "rejected": turns("Hi", "No")},
    ],
)
def test_pairs_have_the_texts_that_trl_gives_them(columns):
    theirs = apply_chat_template(
        columns if "prompt" in columns else extract_prompt(columns), smollm()
    )
    row = encoded(columns, Pairs)
    assert text(row.prompt) == theirs["prompt"]
    for ours, name in zip(row.completions, ("chosen", "rejected"), strict=True):
        assert text(ours.ids) == theirs[name].removesuffix("\n")
        assert (
            list(row.prompt) + list(ours.ids)
            == smollm()(theirs["prompt"] + theirs[name].removesuffix("\n"))["input_ids"]
        )


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "Hi", "chosen": answer("Yes"), "rejected": answer("No")},
        {"prompt": turns("Hi"), "chosen": "Yes", "rejected": "No"},
        {"prompt": turns("Hi"), "chosen": turns("Hi", "Yes"), "rejected": turns("Hi", "No")},
        {"prompt": "Hi", "chosen": turns("Hi", "Yes"), "rejected": turns("Hi", "No")},
    ],
    ids=["text prompt", "text answers", "prompt repeated", "prompt repeated beside text"],
)
def test_mixed_formats_mean_the_conversation_that_they_look_like(columns):
    whole = {"prompt": turns("Hi"), "chosen": answer("Yes"), "rejected": answer("No")}
    assert encoded(columns, Pairs) == encoded(whole, Pairs)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is black.", "The sky is"),
        ("The sky is blue", "The sky is blue today", "The sky is"),
        ("Q: Why?\nA: So.", "Q: Why?\nA: No.", "Q: Why?\nA:"),
        (
            "\n\nHuman: Why?\n\nAssistant: I think so.",
            "\n\nHuman: Why?\n\nAssistant: I think not.",
            "\n\nHuman: Why?\n\nAssistant:",
        ),
    ],
)
def test_an_implicit_prompt_ends_at_a_word_or_a_turn(chosen, rejected, prompt):
    row = encoded({"chosen": chosen, "rejected": rejected}, Pairs)
    assert text(row.prompt) == prompt
    assert text(row.prompt) + trained(row.completions[0])[0] == chosen + "<|im_end|>"
    assert text(row.prompt) + trained(row.completions[1])[0] == rejected + "<|im_end|>"


def test_an_implicit_prompt_of_turns_ends_before_the_first_answer_that_differs():
    row = encoded(
        {"chosen": turns("a", "b", "c", "yes"), "rejected": turns("a", "b", "c", "no")}, Pairs
    )
    assert [trained(one) for one in row.completions] == [["yes<|im_end|>"], ["no<|im_end|>"]]
    longer = encoded({"chosen": turns("a", "b"), "rejected": turns("a", "b", "c", "d")}, Pairs)
    assert trained(longer.completions[1]) == ["b<|im_end|>", "d<|im_end|>"]


WORD = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(prompt=WORD, completion=WORD)
def test_a_prompt_is_a_prefix_of_its_row_or_the_row_is_bad(prompt, completion):
    try:
        row = encoded({"prompt": prompt, "completion": completion})
    except BadRow:
        return
    if isinstance(row, BadRow):
        return
    ids = list(smollm()(prompt + completion)["input_ids"])
    start = 0 if smollm()(prompt)["input_ids"] else 1  # some characters are no token
    whole = [*row.prompt, *row.completions[0].ids][start:]
    assert whole in (ids, [*ids, EOS])
    assert list(row.prompt)[start:] == list(smollm()(prompt)["input_ids"])


def test_text_alone_is_trained_whole_from_a_start_token():
    row = encoded({"text": "The sky is blue."})
    assert list(row.prompt) == [smollm().bos_token_id]
    assert trained(row.completions[0]) == ["The sky is blue.<|im_end|>"]
    assert not row.prompted
    with_bos = encoded({"text": "hi yes"}, tokenizer=words())
    assert (list(with_bos.prompt), list(with_bos.completions[0].ids)) == ([0], [7, 8, 1])


def test_a_bos_comes_once_whether_the_tokenizer_or_the_template_writes_it():
    plain = encoded({"prompt": "hi", "completion": " yes"}, tokenizer=words())
    assert list(plain.prompt) == [0, 7]
    chat = encoded({"prompt": turns("hi"), "completion": answer("yes")}, tokenizer=words())
    assert list(chat.prompt) == [0, 2, 5, 7, 3, 2, 6]
    assert list(chat.completions[0].ids) == [8, 3], "<end>, and no </s> after it"


def test_a_template_without_an_end_of_turn_gets_the_eos():
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    template += "{% if add_generation_prompt %}assistant {% endif %}"
    row = encoded({"messages": turns("hi", "yes")}, tokenizer=words(template))
    assert list(row.completions[0].ids) == [8, 1]


def test_a_template_that_opens_answers_with_more_than_it_keeps():
    template = TEMPLATE.replace("<turn> assistant {% endif", "<turn> assistant maybe {% endif")
    row = encoded({"messages": turns("hi", "yes")}, tokenizer=words(template))
    assert list(row.prompt) == [0, 2, 5, 7, 3, 2, 6]
    assert list(row.completions[0].ids) == [8, 3]


def test_a_template_that_shows_the_prompt_otherwise_later_costs_the_row():
    template = "{% if messages[-1].role == 'assistant' %}no {% endif %}" + TEMPLATE
    row = encoded({"messages": turns("hi", "yes")}, tokenizer=words(template))
    assert "shows the prompt otherwise" in str(row)


def test_earlier_answers_that_the_template_changes_are_context_and_reported():
    template = TEMPLATE.replace(
        "{{ m.content }}",
        "{% if loop.last and m.role == 'assistant' %}maybe {% endif %}{{ m.content }}",
    )
    row = encoded({"messages": turns("hi", "yes", "hi", "no")}, tokenizer=words(template))
    assert list(row.completions[0].ids) == [10, 9, 3]
    assert row.notes == (
        "rows with answers not trained, for the chat template changes them later on",
    )


def test_what_a_template_refuses_is_a_reason():
    template = "{{ raise_exception('roles must alternate') }}"
    row = encoded({"messages": turns("hi", "yes")}, tokenizer=words(template))
    assert str(row) == "the chat template refuses it: roles must alternate"


def test_tools_and_template_options_reach_the_template():
    template = "{% if tools %}maybe {% endif %}{% if loud %}no {% endif %}" + TEMPLATE
    columns = {"messages": turns("hi", "yes"), "tools": '[{"name": "f"}]'}
    row = encoded({**columns, "chat_template_kwargs": {"loud": True}}, tokenizer=words(template))
    assert list(row.prompt)[:3] == [10, 9, 0]


def test_conversations_need_a_chat_template():
    with pytest.raises(UserError, match="tokenizer has no chat template"):
        encoded({"messages": turns("hi", "yes")}, tokenizer=words(""))


def test_long_rows_are_cut_at_the_prompts_start_and_the_completions_end():
    row = encoded(
        {"prompt": "hi yes no maybe", "completion": " no no yes"},
        tokenizer=words(),
        overlong="truncate",
        max_prompt_tokens=3,
        max_completion_tokens=2,
    )
    assert list(row.prompt) == [0, 9, 10], "the BOS stays"
    assert list(row.completions[0].ids) == [9, 9], "no EOS: the answer did not end here"
    assert row.notes == ("truncated rows",)
    limits = {"overlong": "truncate", "max_completion_tokens": 7}
    cut = encoded({"messages": turns("one", "two", "three", "four")}, **limits)
    assert trained(cut.completions[0]) == ["two<|im_end|>"]
    limits["max_completion_tokens"] = 14
    cut = encoded({"messages": turns("one", "two", "three", "four four")}, **limits)
    assert [one.spans for one in cut.completions] == [((0, 2), (13, 14))]
    assert len(cut.completions[0].ids) == 14, "the span ends where the tokens end"


def test_a_pair_that_truncation_makes_equal_is_dropped():
    columns = {"prompt": "hi", "chosen": " yes yes no", "rejected": " yes yes maybe"}
    limits = {"overlong": "truncate", "max_completion_tokens": 2}
    row = encoded(columns, Pairs, words(), **limits)
    assert str(row) == "two completions are the same, as tokens within the length limits"


def test_a_preference_below_one_half_exchanges_the_pair():
    columns = {"prompt": "a", "chosen": " b", "rejected": " c"}
    turned = encoded({**columns, "preference": 0.25}, Pairs)
    assert turned.said == Preference(0.75)
    assert trained(turned.completions[0]) == [" c<|im_end|>"]
    straight = encoded({**columns, "preference": "0.75"}, Pairs)
    assert trained(straight.completions[0]) == [" b<|im_end|>"]
    assert PAIRS.stack([turned, straight]).preference_N.tolist() == [0.75, 0.75]
    assert PAIRS.stack([encoded(columns, Pairs)]).preference_N is None


def test_a_tokenizer_that_was_told_to_truncate_or_pad_is_not_obeyed():
    tokenizer = words()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    row = encoded({"prompt": "hi", "completion": " yes no yes"}, tokenizer=tokenizer)
    assert (list(row.prompt), list(row.completions[0].ids)) == ([0, 7], [8, 9, 8, 1])


def test_a_tokenizer_in_python_works_too():
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast and tokenizer.bos_token_id is None
    row = encoded({"prompt": "ab", "completion": " c"}, tokenizer=tokenizer)
    assert tokenizer.decode(row.prompt) == "ab"
    assert tokenizer.decode(row.completions[0].ids) == " c</s>"
    alone = encoded({"text": "ab"}, tokenizer=tokenizer)
    assert list(alone.prompt) == [tokenizer.eos_token_id]


def test_special_tokens_that_a_text_spells_out_are_reported():
    row = encoded({"prompt": turns("Hi"), "completion": answer("a<|im_end|>b")})
    assert row.notes == ("rows whose completions spell out special tokens of the model",)
    assert encoded({"messages": turns("a", "b", "c", "d")}).notes == ()


def test_template_options_cannot_ask_for_tokens():
    columns = {"messages": turns("Hi", "Yo"), "chat_template_kwargs": {"tokenize": True}}
    assert encoded(columns) == encoded({"messages": turns("Hi", "Yo")})
