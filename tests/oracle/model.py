"""What the mutation log should say, kept in plain dictionaries.

A model of committed rows only: a transaction collects its changes and hands them over at COMMIT.
Knows nothing of Postgres but that a statement changed one row, by its key.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One change of one row; the number tells it from others that look the same."""

    number: int
    op: str
    request: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A live row: its values, who wrote each of them, and what happened to it so far."""

    values: Values
    owners: dict[str, str]
    life: tuple[Event, ...]


@dataclass
class Table:
    """Committed rows by key, and what history shows for a key: all that happened under it."""

    rows: dict[int, Row] = field(default_factory=dict)
    past: dict[int, tuple[Event, ...]] = field(default_factory=dict)


@dataclass
class Transaction:
    """The changes of one transaction, over what was committed when each was made."""

    request: str
    rows: dict[tuple[str, int], Row | None] = field(default_factory=dict)
    past: dict[tuple[str, int], tuple[Event, ...]] = field(default_factory=dict)


class Model:
    """All tables."""

    def __init__(self, columns: dict[str, list[str]]) -> None:
        self.columns = columns
        self._numbers = itertools.count()
        self.tables = {name: Table() for name in columns}

    def _event(self, op: str, request: str, changed: tuple[str, ...]) -> Event:
        return Event(next(self._numbers), op, request, changed)

    def row(self, tx: Transaction, table: str, key: int) -> Row | None:
        if (table, key) in tx.rows:
            return tx.rows[table, key]
        return self.tables[table].rows.get(key)

    def past(self, tx: Transaction, table: str, key: int) -> tuple[Event, ...]:
        if (table, key) in tx.past:
            return tx.past[table, key]
        return self.tables[table].past.get(key, ())

    def insert(self, tx: Transaction, table: str, key: int, values: Values) -> None:
        full = {c: values.get(c) for c in self.columns[table]}
        event = self._event("INSERT", tx.request, tuple(self.columns[table]))
        owners = dict.fromkeys(full, tx.request)
        tx.rows[table, key] = Row(full, owners, (event,))
        tx.past[table, key] = (*self.past(tx, table, key), event)

    def update(self, tx: Transaction, table: str, key: int, values: Values) -> None:
        row = self.row(tx, table, key)
        assert row is not None
        changed = tuple(
            c for c in self.columns[table] if c in values and values[c] != row.values[c]
        )
        if not changed:
            return
        event = self._event("UPDATE", tx.request, changed)
        new_key = values.get("id", key)
        after = Row(
            row.values | {c: values[c] for c in changed},
            row.owners | dict.fromkeys(changed, tx.request),
            (*row.life, event),
        )
        past = self.past(tx, table, key)
        tx.past[table, key] = (*past, event)
        if new_key != key:
            tx.rows[table, key] = None
            tx.past[table, new_key] = (*self.past(tx, table, new_key), *after.life)
        tx.rows[table, new_key] = after

    def delete(self, tx: Transaction, table: str, key: int, op: str = "DELETE") -> None:
        event = self._event(op, tx.request, tuple(self.columns[table]))
        tx.rows[table, key] = None
        tx.past[table, key] = (*self.past(tx, table, key), event)

    def commit(self, tx: Transaction) -> None:
        for (table, key), row in tx.rows.items():
            if row is None:
                self.tables[table].rows.pop(key, None)
            else:
                self.tables[table].rows[key] = row
        for (table, key), past in tx.past.items():
            self.tables[table].past[key] = past

    def add_column(self, table: str, column: str, value: Any) -> None:
        self.columns[table].append(column)
        for key, row in self.tables[table].rows.items():
            self.tables[table].rows[key] = replace(row, values=row.values | {column: value})

    def rename_column(self, table: str, old: str, new: str) -> None:
        self.columns[table] = [new if c == old else c for c in self.columns[table]]
        for key, row in self.tables[table].rows.items():
            self.tables[table].rows[key] = replace(
                row,
                values={new if c == old else c: v for c, v in row.values.items()},
                owners={new if c == old else c: v for c, v in row.owners.items()},
            )
