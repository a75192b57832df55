"""The requests that `Idempotency-Key` headers name: each key is bound to the first request that it came with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import BaseModel

from precipiq_chain.canonical import NotCanonical, canonical
from precipiq_contracts.chain import Chain


class RequestKeys(Protocol):
    """Capability: remembers what each key was first used for. Provided by the plugin ``ledger`` over ``Database``."""

    async def bind(self, chain: Chain, name: str, content: bytes) -> bool:
        """Bind the name to the content; whether it was free until now. Durable on return.

        Raises ``IdempotencyConflict`` when it is bound to other content, and ``Unavailable``.
        """
        ...

    async def release(self, chain: Chain, name: str, content: bytes) -> None:
        """Forget the name if it is bound to that content: the request was refused, and nothing came of it."""
        ...


def request_content(path: Mapping[str, str], body: BaseModel, *, depth_max: int) -> bytes:
    """What makes two requests the same: a retry may order its JSON otherwise, and leave out what has a default."""
    try:
        return canonical({"path": dict(path), "body": body.model_dump()}, max_depth=depth_max + _OWN_LEVELS)
    except NotCanonical:  # the handler refuses it, or a plugin's model has types that JSON has not
        return repr((sorted(path.items()), body.model_dump())).encode("utf-8", "backslashreplace")


_OWN_LEVELS = 2
