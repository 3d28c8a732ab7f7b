"""The demo: train as ``examples/demo.yaml`` says, then load the result with plain PEFT.

    python examples/demo.py

It shows the Python interface, and proves that the adapter needs nothing of Trimtab.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trimtab import train
from trimtab.commands import quiet
from trimtab.core.model import locate
from trimtab.progress import Display

HERE = Path(__file__).parent
GOOD, BAD = "A rare joy, warm and funny.", "A dull mess, loud and long."


def main() -> None:
    """Train, then say what changed."""
    quiet()
    run = train(HERE / "demo.yaml", observers=[Display()])
    first, *_, last = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    for name in ("accuracy_logp", "accuracy_implicit", "margin", "kl_sequence"):
        print(f"{name:18} {said(first[name])}  ->  {said(last[name])}")
    print(f"\nplain peft loads it, and favours {GOOD!r} over")
    print(f"{BAD!r} by {with_plain_peft(run / 'adapter')} nats")
    print(f"the adapter: {run / 'adapter'}")
    print(f"talk to it:  trimtab generate {run} --prompt 'Write a one-sentence review of Alien.'")
    print("try another: trimtab train examples/demo.yaml --set objective.loss=ipo")


def said(measure: dict[str, float]) -> str:
    """``0.675 [0.590, 0.757] n=320``."""
    return "{value:.3f} [{low:.3f}, {high:.3f}] n={n}".format(**measure)


@torch.no_grad()
def with_plain_peft(adapter: Path) -> str:
    """By how much the better text is likelier, without the adapter and with it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = json.loads((adapter / "adapter_config.json").read_text())
    base = locate(settings["base_model_name_or_path"])
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    turns = [{"role": "user", "content": "Write a one-sentence review of the movie Alien."}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    begin = len(tokenizer(prompt, add_special_tokens=False).input_ids)

    def logp(text: str) -> float:
        ids = tokenizer(prompt + text, return_tensors="pt", add_special_tokens=False).input_ids
        logps = model(ids).logits[0, begin - 1 : -1].log_softmax(-1)
        return float(logps.gather(-1, ids[0, begin:, None]).sum())

    after = logp(GOOD) - logp(BAD)
    with model.disable_adapter():
        return f"{logp(GOOD) - logp(BAD):.2f} -> {after:.2f}"


if __name__ == "__main__":
    main()
