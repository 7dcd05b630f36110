"""Who asks: API keys from the Authorization or X-API-Key header, looked up in the store and believed for some seconds."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from agentflow.errors import Forbidden, Unauthenticated
from agentflow.ports import ApiKeys, Principal

Value = TypeVar("Value")

KNOWN_LIMIT = 4_096
UNKNOWN_LIMIT = 1_024
KEY_LIMIT_CHARS = 512


class Authenticator:
    """Turns a key into a principal.

    The cache is indexed by SHA-256 of the key, so how long a look-up takes says nothing about a key. Unknown keys have a
    cache of their own: a flood of them cannot push out the good ones.
    """

    def __init__(self, keys: ApiKeys, *, believe_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._believe_s = believe_s
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}

    async def principal(self, authorization: str | None, api_key: str | None) -> Principal:
        """The principal of a request. Raises Unauthenticated, StoreUnavailable."""
        key = key_in(authorization, api_key)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        now = self._monotonic()
        known = self._known.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        if self._unknown.get(digest, 0.0) > now:
            raise _unknown_key()
        found = await self._look_up(key, digest)
        until = self._monotonic() + self._believe_s
        if found is None:
            self._known.pop(digest, None)
            _keep(self._unknown, digest, until, UNKNOWN_LIMIT)
            raise _unknown_key()
        _keep(self._known, digest, (until, found), KNOWN_LIMIT)
        return found

    async def _look_up(self, key: str, digest: bytes) -> Principal | None:
        """One look-up for all requests that came with the same key meanwhile."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._keys.find(key))
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(task)


def key_in(authorization: str | None, api_key: str | None) -> str:
    """The key that the headers carry. Raises Unauthenticated."""
    if authorization:
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() != "bearer" or not rest.strip():
            raise Unauthenticated("The Authorization header must be 'Bearer KEY'; agentflow up says where the key lies.")
        key = rest.strip()
    elif api_key:
        key = api_key.strip()
    else:
        raise Unauthenticated("No API key. Send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; agentflow up says where the key lies.")
    if len(key) > KEY_LIMIT_CHARS or not key.isascii() or not key.isprintable():
        raise _unknown_key()
    return key


def must_write(principal: Principal) -> None:
    """Raises Forbidden unless the principal may change things."""
    if principal.role != "admin":
        raise Forbidden(
            f"The key of {principal.name!r} has the role {principal.role!r}, which reads only; use a key with the role 'admin'."
        )


def _unknown_key() -> Unauthenticated:
    return Unauthenticated("This API key is not known here; agentflow up says where the cluster's key lies.")


def _keep(cache: OrderedDict[bytes, Value], digest: bytes, value: Value, limit: int) -> None:
    cache[digest] = value
    cache.move_to_end(digest)
    while len(cache) > limit:
        cache.popitem(last=False)
