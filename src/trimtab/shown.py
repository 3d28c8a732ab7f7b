"""Best, median and worst of what the policy sampled for a step, by reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

LONGEST = 400
"""Characters of a text that are shown."""

PROMPT = 80
"""Characters of a prompt that are shown beside its completion."""

BESIDE = (("advantage", "advantage"), ("kl_sequence", "KL"))
"""What is shown beside the reward and its parts, where it is known."""

Sample = Mapping[str, Any]


class Ranked(NamedTuple):
    """One sample, and what it is among those of its step."""

    place: str
    sample: Sample
    prompt: str
    """Without what all prompts share, such as a chat template."""

    @property
    def reward(self) -> str:
        """As text."""
        given = self.sample.get("reward")
        return "" if given is None else f"{given:.4g}"

    @property
    def parts(self) -> dict[str, str]:
        """The reward's parts, where they say more than it does; then advantage and KL."""
        parts = {name: _short(value) for name, value in self.sample.get("parts", {}).items()}
        if list(parts.values()) == [self.reward]:
            parts = {}
        beside = {said: _short(self.sample[name]) for name, said in BESIDE if name in self.sample}
        return {**parts, **beside}


def ranked(samples: Sequence[Sample]) -> list[Ranked]:
    """The best, the median and the worst, as far as there are so many with a reward.

    Where no reward was asked, the first of them as they are. What was said of two completions is
    none of them.
    """
    samples = [sample for sample in samples if "completion" in sample]
    prompts = apart([sample["prompt"] for sample in samples])
    both = list(zip(samples, prompts, strict=True))
    if not any("reward" in sample for sample in samples):
        return [Ranked("", *each) for each in both[:3]]
    scored = sorted(
        (each for each in both if each[0]["reward"] is not None),
        key=lambda each: -each[0]["reward"],
    )
    chosen = {len(scored) // 2: "median", len(scored) - 1: "worst", 0: "best"} if scored else {}
    return [Ranked(chosen[place], *scored[place]) for place in sorted(chosen)]


def unscored(samples: Sequence[Sample]) -> str | None:
    """How many no reward could score, and why the first of them; None where there are none."""
    whys = [each.get("why") for each in samples if "reward" in each and each["reward"] is None]
    if not whys:
        return None
    why = next((f": {one_line(why)}" for why in whys if why), "")
    return f"{len(whys)} of {len(samples)} could not be scored{why}"


def table(step: int, samples: Sequence[Sample]) -> Table:
    """They as a table for a terminal."""
    made = Table(
        f"step {step}",
        "reward",
        "prompt",
        "completion",
        caption=unscored(samples),
        show_lines=True,
    )
    for each in ranked(samples):
        numbers = "\n".join(
            [each.reward, *(f"{name} {value}" for name, value in each.parts.items())]
        )
        made.add_row(
            each.place,
            Text(numbers),
            cell(each.prompt, PROMPT),
            cell(each.sample["completion"], LONGEST // 2),
        )
    return made


def plain(samples: Sequence[Sample]) -> Iterator[str]:
    """They as lines for where there is no terminal."""
    for each in ranked(samples):
        numbers = "  ".join(f"{name} {value}" for name, value in each.parts.items())
        asked = one_line(each.prompt[-PROMPT:])
        yield (
            f"  {each.place:<6}  {each.reward}{f' ({numbers})' if numbers else ''}"
            f"  {asked} > {one_line(each.sample['completion'])}"
        )
    if said := unscored(samples):
        yield f"  {said}"


def apart(prompts: Sequence[str]) -> list[str]:
    """The lines of each prompt that are not those of all: a template's are left out.

    >>> apart(["system: be kind\\nhello\\nassistant", "system: be kind\\nbye\\nassistant"])
    ['hello', 'bye']
    """
    if len(set(prompts)) < 2:
        return list(prompts)
    lines = [prompt.split("\n") for prompt in prompts]
    begin = _alike(lines)
    end = _alike([each[begin:][::-1] for each in lines])
    return ["\n".join(each[begin : len(each) - end]) for each in lines]


def _alike(lists: Sequence[Sequence[str]]) -> int:
    """How many first items all the lists share."""
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*lists, strict=False)))


def cell(text: str, longest: int = LONGEST) -> Text:
    """As it is, but for what a terminal would obey, and not too long."""
    shown = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    kept = "".join(shown).strip()
    return Text(kept if len(kept) <= longest else f"{kept[:longest]}...")


def one_line(text: str) -> str:
    """The same without line breaks."""
    return " ".join(cell(text).plain.split())


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
