"""Measure the way from a file of pairs to token ids, ours or TRL's own."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

from trimtab.benchmarks.clock import timed
from trimtab.benchmarks.machine import held_here, most_here
from trimtab.benchmarks.preparation import Prepared, ToPrepare
from trimtab.benchmarks.process import serve
from trimtab.core.config import DataConfig
from trimtab.core.embedded import NAME
from trimtab.core.model import load_tokenizer


def measure(request: ToPrepare, folder: Path) -> Prepared:
    """By the system that is asked for."""
    return _ours(request) if request.system == "trimtab" else _trl(request, folder)


def _ours(request: ToPrepare) -> Prepared:
    """Read, check, tokenize, digest: all that comes before the model in a run."""
    from trimtab.plugins.sources.corpus import read_corpus
    from trimtab.plugins.sources.kinds import PAIRS

    tokenizer, loaded = load_tokenizer(NAME), held_here()
    began = time.perf_counter()
    corpus = read_corpus(DataConfig(train=request.file, holdout=0.0), PAIRS, tokenizer)
    seconds = time.perf_counter() - began
    peak = most_here()
    tokens = sum(
        len(row.tokens.prompt) + sum(len(one.ids) for one in row.tokens.completions)
        for row in corpus.train
    )
    return Prepared(
        arm=request.arm,
        rows=len(corpus.train),
        tokens=tokens,
        seconds=seconds,
        loaded=loaded,
        peak=peak,
    )


def _trl(request: ToPrepare, folder: Path) -> Prepared:
    """``load_dataset``, and what ``DPOTrainer`` does to a data set when it is made."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    tokenizer, model = load_tokenizer(NAME), _tiny()
    preparing: list[float] = []
    timed(DPOTrainer, "_prepare_dataset", preparing)
    loaded = held_here()
    began = time.perf_counter()
    cache = str(folder / "datasets")
    dataset = load_dataset("json", data_files=request.file, split="train", cache_dir=cache)
    reading = time.perf_counter() - began
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            dataset_num_proc=request.processes,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM"),
    )
    peak = most_here()
    made: Any = trainer.train_dataset
    tokens = sum(
        len(ids) for column in ("prompt_ids", "chosen_ids", "rejected_ids") for ids in made[column]
    )
    return Prepared(
        arm=request.arm,
        rows=len(made),
        tokens=tokens,
        seconds=reading + sum(preparing),
        reading=reading,
        loaded=loaded,
        peak=peak,
        helper=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    )


def _tiny() -> Any:
    """A trainer wants a model; this one is as small as can be."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )


if __name__ == "__main__":
    serve(ToPrepare, measure)
