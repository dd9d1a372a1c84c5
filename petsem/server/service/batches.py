"""A batch of changes to an app's secrets, as a body spells it and as it is applied.

Guarantees: in a `Batch` every name and size is within its bounds, no name is there twice, and
values are bytes that no repr shows. It does not know what the app has.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from petsem import limits
from petsem.errors import invalid
from petsem.model import check_secret_name
from petsem.secretbytes import SecretBytes
from petsem.wire import http


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch: values to set by name, and names to take away."""

    set: dict[str, SecretBytes]
    unset: tuple[str, ...]
    if_version: int | None
    durability: http.DurabilityWish | None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the batch touches."""
        return (*self.set, *self.unset)


def check_batch(patch: http.SecretsPatch) -> Batch:
    """The batch that a body spells, with every bound checked."""
    if not patch.set and not patch.unset:
        raise invalid("the batch is empty; give names to set or to unset")
    if len(patch.set) + len(patch.unset) > limits.APP_MAX_SECRETS:
        raise invalid(f"a batch has at most {limits.APP_MAX_SECRETS} names", reason="TOO_LARGE")
    if len(set(patch.unset)) != len(patch.unset):
        raise invalid("a name is unset twice in one batch")
    for name in (*patch.set, *patch.unset):
        check_secret_name(name)
    if not patch.set.keys().isdisjoint(patch.unset):
        raise invalid("a name is both set and unset in one batch")
    if isinstance(patch.durability, http.ReplicatedDurability) and patch.durability.replicated < 1:
        raise invalid("durability replicated must be at least 1")
    values = {name: _value(name, value) for name, value in patch.set.items()}
    return Batch(values, tuple(patch.unset), patch.if_version, patch.durability)


def _value(name: str, value: http.Value) -> SecretBytes:
    if isinstance(value, str):
        raw = value.encode()
    else:
        try:
            raw = base64.b64decode(value.base64, validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"the base64 of {name} is not valid") from None
    if len(raw) > limits.VALUE_MAX_BYTES:
        raise invalid(
            f"the value of {name} is over {limits.VALUE_MAX_BYTES} bytes", reason="TOO_LARGE"
        )
    return SecretBytes(raw)
