"""Identifiers: UUIDv7 (RFC 9562) whose last byte is the shard, and the hashes that choose a shard.

An execution id says where its execution lives, so that nobody needs a look-up to route a command.
Layout: 48 bits Unix milliseconds, version 7, 12 random bits, variant, 54 random bits, 8 bits shard.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from datetime import UTC, datetime

SHARD_COUNT = 16
"""Fixed when a database is made (design 5): supervisors hold several shards each, executions never move."""


def shard_of(execution_id: str) -> int:
    """The shard in an execution id (canonical 36-character form)."""
    return int(execution_id[-2:], 16)


def is_execution_id(text: str) -> bool:
    """True for the canonical lower-case form of a UUIDv7 whose shard exists."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return parsed.version == 7 and str(parsed) == text and shard_of(text) < SHARD_COUNT


def new_execution_id(now: datetime, *, seed: bytes | None = None, shard: int | None = None) -> str:
    """A new id at `now`.

    `seed` makes the random part a function of it (an Idempotency-Key's id is derived so). `shard` places the
    execution: a child takes its parent's, a session's message that of the session; otherwise it is the hash of the id.
    """
    entropy = os.urandom(10) if seed is None else hashlib.sha256(seed).digest()[:10]
    millis = int(now.timestamp() * 1000)
    if shard is None:
        shard = hashlib.blake2b(entropy, digest_size=1).digest()[0] % SHARD_COUNT
    number = millis << 80 | 7 << 76 | (int.from_bytes(entropy[:2], "big") & 0xFFF) << 64
    number |= 2 << 62 | (int.from_bytes(entropy[2:9], "big") & (1 << 54) - 1) << 8 | shard
    return str(uuid.UUID(int=number))


def time_of(execution_id: str) -> datetime:
    """When the id was made, UTC, to the millisecond."""
    return datetime.fromtimestamp((uuid.UUID(execution_id).int >> 80) / 1000, UTC)


def session_shard(tenant_id: str, agent: str, session_id: str) -> int:
    """The one shard that orders and fences a session's messages."""
    key = "\0".join((tenant_id, agent, session_id)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=1).digest()[0] % SHARD_COUNT
