"""A cached reference is the computed one, and is computed only where it is unknown."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tiny import perturb, policy, ragged_pairs, save_tiny

from trimtab import Needs
from trimtab.core.cached import CachedReference
from trimtab.core.columns import annotate
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.reference_cache import ReferenceCache
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig


class Counting(AdapterOff):
    """Counts the rows that are computed."""

    def __init__(self):
        super().__init__(AdapterOffConfig())
        self.computed = Counter()

    def logps(self, policy, sequences):
        self.computed.update({name: len(s) for name, s in sequences.items()})
        return super().logps(policy, sequences)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def cached(model, folder, run="run"):
    reference = Counting()
    cache = ReferenceCache(folder, reference.fingerprint(model), run)
    return CachedReference(reference, cache)


def columns(model, reference, batch):
    filled = annotate(model, reference, batch, Needs(reference=True))
    return torch.cat(
        [filled.chosen.reference_NT.flatten(), filled.rejected.reference_NT.flatten()]
    )


def test_cached_is_computed_and_computed_once(tiny, tmp_path):
    model, batch = policy(tiny), ragged_pairs()
    want = columns(model, AdapterOff(AdapterOffConfig()), batch)
    first = cached(model, tmp_path)
    assert torch.equal(columns(model, first, batch), want)
    assert torch.equal(columns(model, first, batch), want)
    assert first.reference.computed == {"chosen": 6, "rejected": 6}
    first.cache.flush()
    second = cached(model, tmp_path, "another")
    assert torch.equal(columns(model, second, batch), want)
    assert second.reference.computed == {}


def test_only_unknown_rows_are_computed(tiny, tmp_path):
    model, batch = policy(tiny), ragged_pairs()
    reference = cached(model, tmp_path)
    columns(model, reference, batch[torch.tensor([1, 4])])
    columns(model, reference, batch)
    assert reference.reference.computed == {"chosen": 6, "rejected": 6}


def test_a_damaged_cache_is_computed_again(tiny, tmp_path):
    model, batch = policy(tiny), ragged_pairs()
    first = cached(model, tmp_path)
    want = columns(model, first, batch)
    first.cache.flush()
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-7] + b"damaged")
    second = cached(model, tmp_path, "another")
    assert "damaged" in second.cache.warnings[0]
    assert torch.equal(columns(model, second, batch), want)
    assert second.reference.computed == {"chosen": 6, "rejected": 6}


def test_the_fingerprint_reacts_to_what_determines_log_probs(tiny, tmp_path_factory):
    def of(model):
        return AdapterOff(AdapterOffConfig()).fingerprint(model)

    base = of(policy(tiny))
    other = save_tiny(tmp_path_factory.mktemp("other"), intermediate_size=192)
    shared, started = policy(tiny), policy(tiny)
    shared.share = True
    started.roles.save(POLICY, other / "start", str(tiny))
    started.roles.start_from(other / "start")
    found = [
        base,
        of(policy(other)),
        of(policy(tiny, quantization="nf4")),
        of(policy(tiny, dtype="bfloat16")),
        of(shared),
        of(started),
    ]
    assert len(set(found)) == len(found)


def test_the_fingerprint_does_not_react_to_training(tiny):
    model = policy(tiny)
    before = model.fingerprint(REFERENCE)
    perturb(model.roles, 0.5, seed=8)
    model.micro_tokens = 7
    assert model.fingerprint(REFERENCE) == before
    assert policy(tiny, rank=8).fingerprint(REFERENCE) == before
    assert policy(tiny, scalar=("critic",)).fingerprint(REFERENCE) == before
    assert policy(tiny, targets=["q_proj"]).fingerprint(REFERENCE) == before


def test_other_tokens_or_masks_are_other_rows(tiny, tmp_path):
    cache = cached(policy(tiny), tmp_path).cache
    keys = [
        cache.key([1, 2], [3, 4], [True, True]),
        cache.key([1], [2, 3, 4], [True, True, True]),
        cache.key([1, 2], [3, 4], [True, False]),
        cache.key([1, 2], [3, 5], [True, True]),
    ]
    assert len(set(keys)) == 4
