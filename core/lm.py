"""The policy of a real run: a causal language model with roles, behind the ``Policy`` protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core.adapters import HEAD
from trimtab.core.batches import Batch, Sequences
from trimtab.core.batching import micro_batches
from trimtab.core.errors import RunError, UserError
from trimtab.core.layout import Layout, lay_out, rows_of
from trimtab.core.logprobs import token_logps
from trimtab.core.model import weights_hash
from trimtab.core.objective import Needs
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.reference_cache import fingerprint
from trimtab.core.roles import Roles


class LanguageModel:
    """Log-probs, values and micro-batches of a base and its roles."""

    def __init__(
        self,
        roles: Roles,
        *,
        dtype: torch.dtype,
        micro_tokens: int,
        share: bool = False,
    ) -> None:
        self.roles = roles
        self.base = roles.base
        self.dtype = dtype
        self.micro_tokens = micro_tokens
        self.share = share
        self.vocabulary: int = self.base.get_output_embeddings().weight.shape[0]
        self.dropouts = [
            (module, module.p)
            for module in self.base.modules()
            if isinstance(module, nn.Dropout) and module.p
        ]

    @property
    def device(self) -> torch.device:
        """The base's."""
        return self.base.device  # type: ignore[no-any-return]

    def role(self, name: str) -> AbstractContextManager[None]:
        """Activate a role for a forward and its backward."""
        return self.roles.role(name)

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Passes with gradient that draw nothing, so that two of them compare."""
        before, self.dropouts = self.dropouts, [(module, 0.0) for module, _ in self.dropouts]
        try:
            yield
        finally:
            self.dropouts = before

    def trained(self) -> Mapping[str, list[nn.Parameter]]:
        """The trained parameters of each role."""
        return {role: self.roles.parameters(role) for role in self.roles.names}

    def cut(self, batch: Batch, skip: frozenset[str] = frozenset()) -> list[Tensor]:
        """Row numbers of each micro-batch."""
        return micro_batches(batch, self.micro_tokens, share=self.share, skip=skip)

    def fingerprint(self, role: str) -> str:
        """The weights as they are held, and how the model computes with them."""
        return fingerprint(
            base=self.weights,
            adapter=self.roles.adapter_hash(role),
            dtype=str(self.dtype),
            device=self.device.type,
            shared=self.share,
        )

    @property
    def _pad(self) -> int | None:
        """The token that the model's own code takes for padding."""
        return self.base.config.get_text_config().pad_token_id  # type: ignore[no-any-return]

    @cached_property
    def weights(self) -> str:
        """SHA-256 of the base's weights as they are held, without adapters and heads."""
        return weights_hash(self.base)

    def halve(self) -> None:
        """Read half as many tokens at a time, after an out-of-memory."""
        if self.micro_tokens <= 1:
            raise RunError(
                "one row alone does not fit into memory: shorten it (data.max_*_tokens)"
            )
        self.micro_tokens //= 2

    def forward(self, sequences: Mapping[str, Sequences], needs: Needs) -> dict[str, Sequences]:
        """Fill what the active role computes, in one pass over all the sequences."""
        layout = lay_out(rows_of(sequences), share=self.share, pad=self._pad).to(self.device)
        if self.roles.is_scalar(self.roles.active):
            return self._scored(sequences, layout)
        reference_MH = self._reference(layout) if needs.tokenwise_reference else None
        with self._compute():
            hidden_MH = self._hidden(layout)[layout.predict_M]
            logps_M, tokenwise = token_logps(
                hidden_MH,
                layout.target_M,
                self._head,
                self.vocabulary,
                frozen_VH=self._frozen_head(),
                temperature=next(iter(sequences.values())).temperature,
                tokenwise=needs.tokenwise,
                reference_MH=reference_MH,
            )
        filled = {
            name: replace(s, maybe_policy_NT=policy_NT)
            for (name, s), policy_NT in self._placed(sequences, layout, logps_M)
        }
        for function, column_M in tokenwise.items():
            for (name, _), column_NT in self._placed(sequences, layout, column_M):
                more = {**filled[name].tokenwise_NT, function: column_NT}
                filled[name] = replace(filled[name], tokenwise_NT=more)
        if needs.trunk_values and self.roles.active == POLICY:
            values_M = self._trunk_values(hidden_MH)
            for (name, _), values_NT in self._placed(sequences, layout, values_M):
                filled[name] = replace(filled[name], maybe_values_NT=values_NT)
        return filled

    @torch.no_grad()
    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The active role's states [M, H] before every trained token of a batch, and the tokens.

        Their order is the same wherever ``micro_tokens`` is the same.
        """
        states, targets = [], []
        for taken in self.cut(batch):
            part = batch[taken].sequences
            layout = lay_out(rows_of(part), share=self.share, pad=self._pad).to(self.device)
            with self._compute():
                states.append(self._hidden(layout)[layout.predict_M])
            targets.append(layout.target_M)
        return torch.cat(states), torch.cat(targets)

    @torch.no_grad()
    def compared(
        self, one_MH: Tensor, other_MH: Tensor, target_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Nats of each of M tokens: log other(target) - log one(target), and KL(one || other)."""

        def kl(other_cV: Tensor, one_cV: Tensor | None) -> Tensor:
            assert one_cV is not None
            return (one_cV.exp() * (one_cV - other_cV)).sum(-1)

        with self._compute():
            one_M, _ = token_logps(one_MH, target_M, self._head, self.vocabulary)
            other_M, found = token_logps(
                other_MH,
                target_M,
                self._head,
                self.vocabulary,
                tokenwise={"kl": kl},
                reference_MH=one_MH,
            )
        return other_M - one_M, found["kl"]

    def _trunk_values(self, hidden_MH: Tensor) -> Tensor:
        """What the head on the policy's states says of those that predict the trained tokens."""
        if self.roles.trunk is None:
            raise ValueError("these roles were made without trunk=True: there is no head to ask")
        values_M1: Tensor = self.roles.trunk(hidden_MH.float())
        return values_M1[:, 0]

    def _scored(self, sequences: Mapping[str, Sequences], layout: Layout) -> dict[str, Sequences]:
        """What a scalar role predicts before each trained token, and of each whole completion.

        The head sees every state, as in transformers: fewer of them give other bits.
        """
        with self._compute():
            hidden_XH = self._hidden(layout)
        values_X = getattr(self.base, HEAD)(hidden_XH.float())[:, 0]
        values_M, score_E = values_X[layout.predict_M], values_X[layout.end_E]
        rows = [len(s) for s in sequences.values()]
        scores = score_E.new_zeros(sum(rows)).index_put((layout.scored_E,), score_E).split(rows)
        placed = self._placed(sequences, layout, values_M)
        return {
            name: replace(s, maybe_values_NT=values_NT, maybe_score_N=score_N)
            for ((name, s), values_NT), score_N in zip(placed, scores, strict=True)
        }

    def next_logits(self, inputs: Tensor, seen: Tensor, position: Tensor, cache: Any) -> Tensor:
        """Logits [N, V] of the token to come, float32; the cache grows by the inputs."""
        for module, _ in self.dropouts:
            module.p = 0.0
        with self._compute():
            hidden_NSH = self.base.base_model(
                input_ids=inputs,
                attention_mask=seen,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            return self._head(hidden_NSH[:, -1]).float()

    def _placed(
        self, sequences: Mapping[str, Sequences], layout: Layout, column_M: Tensor
    ) -> Iterator[tuple[tuple[str, Sequences], Tensor]]:
        """The column of each field [N, T], 0 where nothing is trained."""
        rows = sum(len(s) for s in sequences.values())
        width = max(s.tokens_NT.shape[1] for s in sequences.values())
        whole_RT = column_M.new_zeros(rows, width).index_put(
            (layout.row_M, layout.token_M), column_M
        )
        begin = 0
        for name, s in sequences.items():
            yield (name, s), whole_RT[begin : begin + len(s), : s.tokens_NT.shape[1]]
            begin += len(s)

    def _hidden(self, layout: Layout) -> Tensor:
        """The states [B * S, H] of all that is read."""
        for module, p in self.dropouts:
            module.p = p if torch.is_grad_enabled() else 0.0
        hidden_BSH = self.base.base_model(
            input_ids=layout.input_BS,
            position_ids=layout.position_BS,
            attention_mask=self._attention(layout),
            use_cache=False,
        ).last_hidden_state
        return hidden_BSH.flatten(0, 1)  # type: ignore[no-any-return]

    def _attention(self, layout: Layout) -> Any:
        """One mask, or one for each type of layer where the model has several."""
        if not layout.shared:
            return layout.attention()
        config = self.base.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        if len(kinds) > 1:
            return {
                kind: layout.attention(window if kind == "sliding_attention" else None)
                for kind in kinds
            }
        slides = kinds == {"sliding_attention"} or (not kinds and window is not None)
        return layout.attention(window if slides else None)

    def _head(self, hidden: Tensor) -> Tensor:
        """Hidden states -> logits, with the model's soft cap."""
        logits: Tensor = self.base.get_output_embeddings()(hidden)
        cap = self._cap()
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _frozen_head(self) -> Tensor | None:
        """The head's weight, where the head is this frozen matrix and nothing else."""
        head = self.base.get_output_embeddings()
        plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
        return head.weight if plain and self._cap() is None else None

    def _cap(self) -> float | None:
        """The soft cap that Gemma 2 puts on its logits."""
        return getattr(self.base.config.get_text_config(), "final_logit_softcapping", None)

    def check_head(self) -> None:
        """Refuse a model that does something to its logits that ``_head`` does not."""
        ids = torch.tensor([[1, 2, 3]], device=self.device) % self.vocabulary
        with torch.no_grad(), self._compute():
            own = self.base(input_ids=ids, use_cache=False).logits.float()
            ours = self._head(self.base.base_model(input_ids=ids, use_cache=False)[0]).float()
        if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2):
            kind = type(self.base).__name__
            raise UserError(
                f"{kind} changes its logits after the head in a way that Trimtab does not know: "
                "its log-probs would be wrong. Please report this model"
            )

    def _reference(self, layout: Layout) -> Tensor:
        with torch.no_grad(), self.role(REFERENCE), self._compute():
            return self._hidden(layout)[layout.predict_M]

    @contextmanager
    def _compute(self) -> Iterator[None]:
        """Matrix products in bf16 where the base is; float32 adapters are cast on the way.

        autocast keeps its casts until the outermost context ends: one context a forward.
        """
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        ):
            yield
