"""What the PostgreSQL journal does with a batch that fails in part; the statements themselves are tested on a real server."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from agentflow.adapters.postgres.connection import Pool
from agentflow.adapters.postgres.journal import PostgresJournal
from agentflow.domain import event as ev
from agentflow.errors import CommitUnknown, Fenced, StoreUnavailable
from agentflow.ids import new_execution_id
from agentflow.ports import Append

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Scripted(PostgresJournal):
    """Each write is answered by the script: the names of appends it refuses, or an error for all."""

    def __init__(self, refuses=(), error=None, away_after=None):
        super().__init__("postgresql://nowhere", Pool("postgresql://nowhere"))
        self.refuses, self.error, self.away_after = set(refuses), error, away_after
        self.batches = []
        self.durable = []

    async def _write(self, tokens, batch):
        self.batches.append([append.execution_id for append in batch])
        if self.away_after is not None and len(self.durable) >= self.away_after:
            raise StoreUnavailable("away")
        if self.error is not None:
            raise self.error
        if any(append.execution_id in self.refuses for append in batch):
            raise asyncpg.UniqueViolationError("there already")
        self.durable += [append.execution_id for append in batch]


def appends(count):
    return [Append(new_execution_id(NOW), "t", 1, NOW, [ev.StepSkipped("a")]) for _ in range(count)]


@pytest.mark.parametrize("guilty", [{0}, {7}, {3, 4}, {0, 1, 2, 3, 4, 5, 6, 7}, set()])
async def test_only_the_guilty_are_left_out(guilty):
    batch = appends(8)
    journal = Scripted({batch[index].execution_id for index in guilty})

    rejected = await journal.append({}, batch)

    assert [(refusal.index, refusal.code) for refusal in rejected] == [(index, "exists") for index in sorted(guilty)]
    assert journal.durable == [append.execution_id for index, append in enumerate(batch) if index not in guilty]


async def test_what_builds_on_a_refused_append_is_refused_with_it():
    first, other = appends(2)
    later = Append(first.execution_id, "t", 2, NOW, [ev.StepSkipped("b")])
    journal = Scripted({first.execution_id})

    rejected = await journal.append({}, [first, other, later])

    assert [refusal.index for refusal in rejected] == [0, 2]
    assert journal.durable == [other.execution_id]


async def test_a_store_that_goes_away_before_anything_was_written_may_be_tried_again():
    with pytest.raises(StoreUnavailable):
        await Scripted(away_after=0).append({}, appends(3))


async def test_a_store_that_goes_away_when_a_part_is_written_leaves_an_unknown_outcome():
    batch = appends(4)
    journal = Scripted({batch[3].execution_id}, away_after=1)

    with pytest.raises(CommitUnknown):
        await journal.append({}, batch)
    assert journal.durable


@pytest.mark.parametrize(
    "trouble",
    [
        asyncpg.DeadlockDetectedError("d"),
        asyncpg.SerializationError("s"),
        asyncpg.OutOfMemoryError("m"),
        asyncpg.ReadOnlySQLTransactionError("r"),
        asyncpg.UndefinedTableError("t"),
        asyncpg.QueryCanceledError("c"),
        asyncpg.InternalServerError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_servers_own_trouble_fails_no_execution(trouble):
    journal = Scripted(error=trouble)

    with pytest.raises(StoreUnavailable):
        await journal.append({}, appends(4))
    assert len(journal.batches) == 1, "the batch was halved as if its content were to blame"


@pytest.mark.parametrize(
    "refusal", [asyncpg.CharacterNotInRepertoireError("nul"), asyncpg.DataError("d"), UnicodeEncodeError("u", "", 0, 1, "r")]
)
async def test_refused_content_is_told_apart(refusal):
    rejected = await Scripted(error=refusal).append({}, appends(2))

    assert [found.code for found in rejected] == ["content", "content"]


async def test_a_fenced_batch_is_not_halved():
    journal = Scripted(error=Fenced("f"))

    with pytest.raises(Fenced):
        await journal.append({}, appends(4))
    assert len(journal.batches) == 1
