"""The files of prompts that a judge asks with: read, checked, and filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from trimtab.core.errors import UserError, suggestion
from trimtab.core.explain import check
from trimtab.core.options import Config
from trimtab.core.yamlfile import MAX_BYTES, Fault, Node, Origin, read
from trimtab.plugins.judges.parsing import lines, parse

OURS = Path(__file__).with_name("templates") / "trimtab.yaml"
"""The prompts that come with trimtab."""

RATINGS = {str(number): float(number) for number in range(1, 11)}
"""The options of ``score`` and what each counts, where a template does not say."""

FILLED = {
    "compare": ("prompt", "first", "second", "question", "one", "two", "begin", "end"),
    "score": ("prompt", "completion", "question", "begin", "end"),
}
"""What stands for a text in each section. ``show`` must have all of them."""

ANSWERED = {"compare": ("one", "two"), "score": ()}
"""What ``answer`` must have."""

Words = Annotated[str, MinLen(1)]


class Prompts(Config):
    """What is asked of one kind."""

    question: Words
    """What is asked of the texts, where nothing else is."""

    show: Words
    """The texts, and the question."""

    think: Words
    """After that, where it is to reason first: the request to do so."""

    answer: Words
    """The request for what counts: after ``show``, or after the reasoning."""

    system: str | None = None
    """A system turn before all; null where there is none, as for models that refuse one."""


class ScorePrompts(Prompts):
    """What is asked of one completion."""

    ratings: Annotated[dict[str, float], MinLen(2)] = RATINGS
    """The answers that count and what each is worth, which ``answer`` must name; null is the
    numbers 1 to 10. ``{Positive: 1, Negative: 0}`` asks for a word: a small model that tells good
    from bad may not know numbers."""


class TemplateFile(Config):
    """A file of prompts."""

    name: Words
    version: Annotated[int, Ge(1)]
    compare: Prompts | None = None
    score: ScorePrompts | None = None


@dataclass(frozen=True)
class Asked:
    """A case in the words of a template."""

    system: str | None
    show: str
    think: str
    answer: str


@dataclass(frozen=True)
class Templates:
    """A file of prompts that was read and found right."""

    path: Path
    file: TemplateFile
    sha256: str
    """Of the file, byte by byte."""

    def of(self, section: str) -> Prompts:
        """What is asked of this kind; ``UserError`` where the file does not say."""
        found: Prompts | None = getattr(self.file, section)
        if found is None:
            raise UserError(
                f"{self.path} has no section {section!r}, and the judge is asked to {section}: "
                "add it, or leave judge.template out"
            )
        return found

    @property
    def ratings(self) -> Mapping[str, float]:
        """What each answer of ``score`` is worth."""
        return RATINGS if self.file.score is None else self.file.score.ratings

    def fill(self, section: str, texts: Mapping[str, str]) -> Asked:
        """The prompts with the texts in their places. What a text holds is never filled in."""
        prompts = self.of(section)

        def filled(words: str) -> str:
            return Template(words).substitute(texts).strip("\n")

        return Asked(
            system=None if prompts.system is None else filled(prompts.system),
            show=filled(prompts.show),
            think=filled(prompts.think),
            answer=filled(prompts.answer),
        )

    def describe(self) -> dict[str, Any]:
        """Which one it is, as JSON."""
        return {"name": self.file.name, "version": self.file.version, "sha256": self.sha256}


def load_templates(named: str | None) -> Templates:
    """The prompts of a file; None is ours. ``UserError`` tells every fault with its line."""
    path = OURS if named is None else Path(named)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the judge's template {path}: {error.strerror or error}"
        ) from None
    checked = _Checked(path, data)
    if checked.faults or checked.file is None:
        ordered = sorted(checked.faults, key=lambda fault: fault.origin.line or 0)
        raise UserError("\n".join(map(str, ordered)))
    return Templates(path, checked.file, hashlib.sha256(data).hexdigest())


class _Checked:
    """A file of prompts, or all that is wrong with it."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.file: TemplateFile | None = None
        self.faults: list[Fault] = []
        try:
            self.text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._fault(data.count(b"\n", 0, error.start) + 1, "yaml", "this is not UTF-8 text")
            return
        if len(data) > MAX_BYTES:
            self._fault(1, "yaml", f"the file is larger than {MAX_BYTES >> 20} MiB")
            return
        root, self.faults = read(self.text, str(path))
        if not self.faults:
            self.file, self.faults = check(TemplateFile, root, root.plain())
        if self.file is not None:
            sections = {name: root.child(name) for name in FILLED if getattr(self.file, name)}
            if not sections:
                self._fault(1, "yaml", f"give one of the sections {', '.join(FILLED)}, or both")
            for name, node in sections.items():
                assert node is not None
                self.faults += self._misfilled(name, node)
            if not self.faults:
                for name, node in sections.items():
                    assert node is not None
                    self.faults += self._answering(name, node)

    def _fault(self, line: int, key: str, message: str) -> None:
        self.faults.append(Fault(Origin(str(self.path), line), key, message))

    def _misfilled(self, section: str, node: Node) -> Iterator[Fault]:
        """Placeholders that there are not, and those that are missing."""
        known = FILLED[section]
        for key, words in _filled(node):
            found = set()
            for each in Template.pattern.finditer(words.value):
                name = each["named"] or each["braced"]
                found.add(name)
                if each["escaped"] is not None or name in known:
                    continue
                said = "a single $; write $$ for a dollar sign"
                if name is not None:
                    said = f"there is no ${name}.{suggestion(name, known)} Known: "
                    said += ", ".join(f"${one}" for one in known)
                yield Fault(self._line_of(each[0], words), words.key, said)
            wanted = {"show": known, "answer": ANSWERED[section]}.get(key, ())
            for name in (one for one in wanted if one not in found):
                yield Fault(words.origin, words.key, f"${name} is missing")

    def _line_of(self, written: str, words: Node) -> Origin:
        """The line on which it stands, at or after the one with the key."""
        first = words.origin.line or 1
        below = self.text.splitlines()[first - 1 :]
        places = (number for number, line in enumerate(below, first) if written in line)
        return Origin(str(self.path), next(places, first))

    def _answering(self, section: str, node: Node) -> Iterator[Fault]:
        """Lines that would be a verdict if the judge only repeated them."""
        options: Sequence[str] = ("1", "2")
        if section == "score" and self.file is not None and self.file.score is not None:
            options = tuple(self.file.score.ratings)
            for option in options:
                if parse(option, options) != option:
                    said = f"{option!r} cannot be read as an answer: use letters or digits"
                    given = node.child("ratings") or node
                    yield Fault(given.origin, given.key, said)
        texts = dict.fromkeys(FILLED[section], "x\nx") | {"one": "1", "two": "2"}
        for _, words in _filled(node):
            for line in lines(Template(words.value).substitute(texts)):
                if parse(line, options) is not None:
                    said = f"the line {line.strip()!r} is itself an answer, which a judge that "
                    said += "only repeats it would give: write more than that on it"
                    yield Fault(words.origin, words.key, said)
                    break


def _filled(section: Node) -> Iterator[tuple[str, Node]]:
    """The words of a section into which texts are filled."""
    for key, words in section.value.items():
        if key not in ("question", "ratings") and words.value is not None:
            yield key, words
