"""Named adapters on one base.

A role is an adapter, and for a scalar role a head. Adapters off is the base itself, bit for bit.
Switching must enclose a role's forward *and* its backward: PEFT freezes the adapters it leaves, so
a joint backward later gives zero gradients, and recomputation would run under the wrong adapter;
neither raises an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.core.adapters import (
    add_adapter,
    copy_adapter,
    draw_head,
    is_scalar,
    load_frozen,
    lora,
    name_base,
    parameters_of,
    put_head,
    write_adapter,
)
from trimtab.core.config import AdapterConfig
from trimtab.core.errors import UserError
from trimtab.core.policy import BASE, CRITIC, LANGUAGE_ROLES, POLICY, REFERENCE
from trimtab.core.seeds import mixed
from trimtab.core.stacking import adapted, check_plain, write_sum
from trimtab.core.value_head import save_value_head, value_head

START = "start"
"""The frozen adapter that is the reference, where the reference is not the base alone."""


BELOW = "below"
"""The frozen adapter that the policy and the reference are stacked on, where there is one."""


class Roles:
    """The roles of a run on a base. Without an adapter, the policy is the base itself.

    ``policy=False`` leaves the policy out: a reward model needs none. The first role is drawn from
    the seed, and every other one from a seed of its own. Heads of roles in ``zero_heads`` start at
    0. With ``trunk``, the role ``critic`` is a head on the policy's own states, and no adapter.

    ``frozen_roles`` are trained adapters, by role, that are only ever read: they are not among
    ``names``, and nothing of them is optimised or saved.
    """

    def __init__(
        self,
        base: Any,
        adapter: AdapterConfig | None,
        *,
        scalar: Sequence[str] = (),
        policy: bool = True,
        seed: int = 0,
        frozen: bool = False,
        frozen_roles: Mapping[str, Path] | None = None,
        zero_heads: Collection[str] = (),
        trunk: bool = False,
    ) -> None:
        frozen_roles = frozen_roles or {}
        self.base = base
        self.scalar = frozenset(scalar)
        """Trained roles that have an adapter and a head of their own."""
        self.names = [POLICY] * policy + list(scalar) + [CRITIC] * trunk
        """The trained roles."""
        self.frozen = frozenset(frozen_roles)
        """Roles that are read and never trained."""
        self.frozen_scalar = frozenset(
            r for r, folder in frozen_roles.items() if is_scalar(folder)
        )
        self.trunk = value_head(base) if trunk else None
        """The head on the policy's states that gives values."""
        self.peft: Any = None
        self.active: str | None = None
        self._entered: str | None = None
        self.headed = bool(self.scalar or self.frozen_scalar)
        self.base_stays = adapter is not None or frozen
        """Is the base never trained itself, so that it is still what it was?"""
        if adapter is None and (scalar or frozen_roles):
            raise UserError("roles beside the policy need model.adapter, and it is null")
        if self.headed:
            put_head(base)
        if adapter is None:
            base.requires_grad_(not frozen)
            return
        for role in [POLICY] * policy + list(scalar):
            torch.manual_seed(seed if role == self.names[0] else mixed(seed, role))
            own = role in self.scalar
            config = lora(adapter, scalar=own, headed=self.headed)
            self.peft = add_adapter(base, self.peft, role, config, scalar=own)
            if own:
                draw_head(self.named_parameters(role), zero=role in zero_heads)
        for role, folder in frozen_roles.items():
            load_frozen(self.peft, folder, role)

    @classmethod
    def loaded(cls, base: Any, folders: Mapping[str, Path]) -> Roles:
        """A base with trained adapters by their roles, frozen: to sample, to score or to merge."""
        from peft import PeftModel

        roles = cls(base, None, frozen=True)
        roles.names = list(folders)
        roles.scalar = frozenset(role for role in folders if is_scalar(folders[role]))
        if roles.scalar:
            put_head(base)
        for role, folder in folders.items():
            if roles.peft is None:
                roles.peft = PeftModel.from_pretrained(base, folder, adapter_name=role)
            else:
                roles.peft.load_adapter(folder, adapter_name=role)
        base.train()  # PEFT has put the model into eval(), which 4-bit weights do not survive
        base.requires_grad_(False)
        return roles

    def merged(self) -> Any:
        """The base with the only role's adapter added to its weights, and without PEFT."""
        return self.peft.merge_and_unload(adapter_names=self.names)

    def adapters(self, role: str) -> list[str]:
        """The adapters that are on for a role, bottom first; none where it is the base itself."""
        if self.peft is None or role == BASE:
            return []
        there = self.peft.peft_config
        below = [BELOW] if BELOW in there and role in LANGUAGE_ROLES else []
        own = START if role == REFERENCE else role
        return below if role == REFERENCE and START not in there else [*below, own]

    def start_from(self, folder: Path, how: str = "continue") -> None:
        """Let the policy begin as this PEFT adapter, and keep it, frozen, as the reference.

        continue: the policy's adapter becomes a copy of it. Without a policy, every role begins
        so, and none is kept. The start's head is taken over where it has one, else each role keeps
        the head that it drew.

        stack: it stays below the policy's adapter, which still adds nothing.
        """
        if self.peft is None:
            raise UserError("model.start needs an adapter to load into, and model.adapter is null")
        if POLICY in self.names and is_scalar(folder):
            raise UserError(
                f"model.start: {folder} is a reward model, and no policy to start from"
            )
        if how == "stack" and POLICY not in self.names:
            raise UserError(
                "model.start_as: stack is for policies. A reward model begins as a copy of its "
                "start (continue), or on a base that has it in its weights (merge)"
            )
        name = BELOW if how == "stack" else START
        try:
            load_frozen(self.peft, folder, name)
        except UserError as error:
            raise UserError(f"model.start: {error}") from error
        if how == "stack":
            check_plain(self.base, BELOW, folder, how)
            for _, layer in adapted(self.base, [BELOW]):
                layer.lora_dropout[BELOW] = nn.Identity()
            self.active = None
            return
        starting = [POLICY] if POLICY in self.names else self.names
        self.active = None
        for role in starting:
            copy_adapter(self.peft, START, role)
        if POLICY not in self.names:
            self.peft.delete_adapter(START)
            self.peft.set_adapter(self.names[0])

    def freeze_start(self) -> None:
        """Keep a frozen copy of the policy as it is now as the reference, unless there is one."""
        if self.peft is None or POLICY not in self.names:
            raise UserError("a policy without an adapter has no copy to be the reference")
        if START in self.peft.peft_config:
            return
        self._switch_on()
        config = deepcopy(self.peft.peft_config[POLICY])
        config.inference_mode = True
        self.peft.add_adapter(START, config)
        for parameter in self.parameters(START):
            parameter.requires_grad_(False)
        self.active = None
        copy_adapter(self.peft, POLICY, START)

    def start(self) -> dict[str, nn.Parameter]:
        """The frozen copy that is the reference, by PEFT's names."""
        return self.named_parameters(START)

    @torch.no_grad()
    def move_start(self, share: float) -> None:
        """Move the frozen copy to ``share`` of the policy and the rest of itself."""
        now = self.named_parameters(POLICY)
        for name, parameter in self.start().items():
            parameter.lerp_(now[name], share)

    def is_scalar(self, role: str | None) -> bool:
        """Does this role have an adapter and a head, and so give values and scores?"""
        return role in self.scalar or role in self.frozen_scalar

    def parameters(self, role: str) -> list[nn.Parameter]:
        """What a role trains, in a fixed order."""
        return list(self.named_parameters(role).values())

    def named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        """What a role trains, by PEFT's names without the role's own."""
        if role == CRITIC and self.trunk is not None:
            return dict(self.trunk.named_parameters())
        if self.peft is None:
            return dict(self.base.named_parameters())
        return parameters_of(self.peft, role)

    def adapter_hash(self, role: str) -> str | None:
        """Of a role's adapter as it is now; None where the role is the base itself."""
        adapters = self.adapters(role)
        digest = hashlib.sha256()
        for adapter in adapters:
            for name, parameter in self.named_parameters(adapter).items():
                digest.update(name.encode())
                digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest() if adapters else None

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Activate a role for a forward and its backward; roles may nest, never overlap.

        A role that no other encloses stays active until another one is wanted: switching is slow.
        """
        outer, self._entered = self._entered, name
        try:
            self._activate(name)
            yield
        finally:
            self._entered = outer
            if outer is not None:
                self._activate(outer)

    def save(self, role: str, folder: Path, base_name: str) -> None:
        """Write a role as plain PEFT reads it, flat and naming the model, not a path of here.

        A policy without an adapter is written as the whole model, and a critic on the policy's
        states as its head.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if role == CRITIC and self.trunk is not None:
            save_value_head(self.trunk, folder, base_name)
            return
        if self.peft is None:
            self.base.save_pretrained(folder)
            return
        write_adapter(self.peft, role, folder)
        if len(adapters := self.adapters(role)) > 1:
            write_sum(self.base, adapters, folder)
        name_base(folder, base_name, headed=self.is_scalar(role))

    def _activate(self, name: str) -> None:
        if name == self.active:
            return
        if name == CRITIC and self.trunk is not None:
            raise ValueError(
                "this critic is a head on the policy's states, and has no forward of its own: "
                "give its terms the role 'policy'"
            )
        if self.peft is None:
            if name != POLICY and not (name == BASE and self.base_stays):
                raise UserError(
                    f"the role {name!r} is the base with its adapter off, and this run has no "
                    "adapter: give model.adapter, or reference: {name: model}"
                )
            self.active = name
            return
        adapters = self.adapters(name)
        if not adapters:
            self.peft.base_model.disable_adapter_layers()
            self.active = name
            return
        self._switch_on()
        frozen = name == REFERENCE or name in self.frozen
        if len(adapters) == 1:
            self.peft.set_adapter(adapters[0], inference_mode=frozen)
        else:  # PeftModel's own method takes one name alone
            self.peft.base_model.set_adapter(adapters, inference_mode=frozen)
            for parameter in self.parameters(BELOW):
                parameter.requires_grad_(False)
        self.active = name

    def _switch_on(self) -> None:
        """Where the active role is the base, with all adapters off."""
        if self.active is not None and not self.adapters(self.active):
            self.peft.base_model.enable_adapter_layers()
