"""A random workload of several sessions, played on a database and on the model alike.

One thread plays all sessions, so that a seed always gives the same run: a statement that would have
to wait for another session's lock gives up at once and its transaction is rolled back.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from tests.oracle.model import Model, Transaction, Values

KEYS = 12
SCHEMA = """
create table plain (id int primary key, a int, b text);
create table parts (id int, k int, a int, primary key (id, k)) partition by list (k);
create table parts_0 partition of parts for values in (0);
create table parts_1 partition of parts for values in (1);
create table bag (a int, b text);
create table busy (id int primary key, a int, b text);
create table child (id int primary key, busy int references busy on delete cascade
    on update cascade deferrable initially deferred, a int);
create function busy_writes() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() > 2 then
        return null;
    end if;
    if tg_op = 'DELETE' then
        if old.a % 5 = 0 then
            insert into busy values (old.id, 1, 'again') on conflict do nothing;
        end if;
        return null;
    end if;
    if new.a % 3 = 0 then
        update busy set a = a + 1 where id between new.id and new.id + 1;
    elsif new.a % 3 = 1 and new.a % 7 = 0 then
        delete from busy where id = new.id;
        insert into busy values (new.id, 2, 'reborn');
    elsif new.b = 'move' then
        update busy set id = id + 100, b = 'moved' where id = new.id
            and not exists (select from busy as o where o.id = new.id + 100);
    end if;
    return null;
end $$;
create trigger aaa after insert or update or delete on busy
    for each row execute function busy_writes();
create trigger zzz after insert or update on busy for each row execute function busy_writes();
"""


@dataclass
class Session:
    """One connection, in a transaction or not."""

    conn: psycopg.Connection
    tx: Transaction | None = None
    savepoint: Transaction | None = None


@dataclass
class Workload:
    """The sessions, the model, and the dice."""

    conninfo: str
    seed: int
    sessions: list[Session] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.model = Model({"plain": ["id", "a", "b"]})
        self.steps = 0
        self.committed = 0
        self.columns_made = 0

    def connect(self, count: int) -> None:
        for _ in range(count):
            conn = psycopg.connect(self.conninfo, autocommit=True)
            conn.execute("set lock_timeout = '20ms'")
            self.sessions.append(Session(conn))

    def close(self) -> None:
        for session in self.sessions:
            session.conn.close()

    def step(self) -> None:
        """Let one session do one thing."""
        self.steps += 1
        session = self.dice.choice(self.sessions)
        if session.tx is None:
            self._begin(session)
        try:
            self._act(session)
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.UniqueViolation,
            psycopg.errors.ForeignKeyViolation,
            psycopg.errors.DeadlockDetected,
        ):
            self._end(session, commit=False)
            return
        if session.tx is not None and self.dice.random() < 0.2:
            self._end(session, commit=self.dice.random() < 0.75)

    def settle(self) -> None:
        """End every open transaction."""
        for session in self.sessions:
            if session.tx is not None:
                self._end(session, commit=True)

    def change_shape(self) -> None:
        """ALTER TABLE plain, with no transaction open; the model follows."""
        self.settle()
        conn = self.sessions[0].conn
        columns = self.model.columns["plain"]
        if len(columns) < 9 and self.dice.random() < 0.6:
            self.columns_made += 1
            name = f"c{self.columns_made}"
            conn.execute(f"alter table plain add {name} int default 5".encode())
            self.model.add_column("plain", name, 5)
        else:
            old = self.dice.choice(columns[1:])
            self.columns_made += 1
            new = f"r{self.columns_made}"
            conn.execute(f'alter table plain rename "{old}" to {new}'.encode())
            self.model.rename_column("plain", old, new)

    def _begin(self, session: Session) -> None:
        request = str(uuid.UUID(int=self.dice.getrandbits(128)))
        session.tx = Transaction(request)
        session.savepoint = None
        session.conn.execute("begin")
        session.conn.execute("select set_config('flux.request_id', %s, true)", [request])

    def _end(self, session: Session, *, commit: bool) -> None:
        assert session.tx is not None
        try:
            session.conn.execute("commit" if commit else "rollback")
        except psycopg.errors.ForeignKeyViolation:
            commit = False
        except psycopg.errors.LockNotAvailable:
            commit = False
        if commit:
            self.model.commit(session.tx)
            self.committed += 1
        session.tx = None

    def _act(self, session: Session) -> None:
        kind = self.dice.choices(
            ["plain", "parts", "bag", "busy", "child", "savepoint", "truncate"],
            [50, 12, 8, 20, 6, 6, 0.3],
        )[0]
        getattr(self, f"_act_{kind}")(session)

    def _act_plain(self, session: Session) -> None:
        tx = session.tx
        assert tx is not None
        key = self.dice.randrange(KEYS)
        act = self.dice.choice(["insert", "update", "update", "update", "rekey", "delete"])
        if act == "insert":
            values: Values = {"id": key} | self._values()
            if self._insert(session.conn, values):
                self.model.insert(tx, "plain", key, values)
        elif act == "delete":
            if session.conn.execute("delete from plain where id = %s", [key]).rowcount:
                self.model.delete(tx, "plain", key)
        else:
            values = self._values()
            if act == "rekey":
                values["id"] = self.dice.randrange(KEYS)
            if values and self._update(session.conn, key, values):
                self.model.update(tx, "plain", key, values)

    def _values(self) -> Values:
        columns = self.model.columns["plain"][1:]
        chosen = self.dice.sample(columns, self.dice.randint(1, len(columns)))
        return {c: self._value(c) for c in chosen}

    def _value(self, column: str) -> Any:
        if self.dice.random() < 0.15:
            return None
        return self.dice.randrange(4)

    def _insert(self, conn: psycopg.Connection, values: Values) -> int:
        full = {c: values.get(c) for c in self.model.columns["plain"]}
        query = sql.SQL("insert into plain ({}) values ({}) on conflict do nothing").format(
            sql.SQL(", ").join(map(sql.Identifier, full)),
            sql.SQL(", ").join(sql.Placeholder() * len(full)),
        )
        return conn.execute(query, list(full.values())).rowcount

    def _update(self, conn: psycopg.Connection, key: int, values: Values) -> int:
        query = sql.SQL("update plain set {} where id = {}").format(
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder()) for c in values
            ),
            sql.Placeholder(),
        )
        return conn.execute(query, [*values.values(), key]).rowcount

    def _act_parts(self, session: Session) -> None:
        key, other = self.dice.randrange(KEYS), self.dice.randrange(KEYS)
        statement = self.dice.choice(
            [
                f"insert into parts values ({key}, {key % 2}, {other}) on conflict do nothing",
                f"update parts set k = 1 - k where id = {key}",
                f"update parts set k = 1 - k, a = a + 1, id = {other} where id = {key}",
                f"update parts set a = {other} where id <= {key}",
                f"delete from parts where id = {key}",
                f"merge into parts as p using (values ({key}, {other})) as s (id, a)"
                " on p.id = s.id when matched and s.a < 3 then delete"
                " when matched then update set k = 1 - p.k, a = s.a"
                " when not matched then insert values (s.id, s.a % 2, s.a)",
            ]
        )
        session.conn.execute(statement.encode())

    def _act_bag(self, session: Session) -> None:
        a, b = self.dice.randrange(3), self.dice.randrange(3)
        statement = self.dice.choice(
            [
                f"insert into bag values ({a}, '{b}'), ({a}, null)",
                f"update bag set a = {b} where a = {a}",
                f"update bag set b = '{b}' where ctid in"
                f" (select ctid from bag where a = {a} limit 1)",
                f"delete from bag where ctid in (select ctid from bag where a = {a} limit 2)",
            ]
        )
        session.conn.execute(statement.encode())

    def _act_busy(self, session: Session) -> None:
        key, a = self.dice.randrange(KEYS), self.dice.randrange(1, 30)
        statement = self.dice.choice(
            [
                f"insert into busy select i, {a} + i, 'n' from"
                f" generate_series({key}, {key} + 2) as i on conflict do nothing",
                f"update busy set a = {a} where id = {key}",
                f"update busy set a = a + {a} where id between {key} and {key} + 3",
                f"update busy set b = 'move' where id = {key}",
                f"update busy set id = id - 100 where id = {key} + 100"
                f" and not exists (select from busy where id = {key})",
                f"delete from busy where id between {key} and {key} + 2",
            ]
        )
        session.conn.execute(statement.encode())

    def _act_child(self, session: Session) -> None:
        key, parent = self.dice.randrange(KEYS), self.dice.randrange(KEYS)
        session.conn.execute(
            f"insert into child select {key}, id, 1 from busy where id = {parent}"
            " on conflict (id) do update set busy = excluded.busy, a = child.a + 1".encode()
        )

    def _act_savepoint(self, session: Session) -> None:
        tx = session.tx
        assert tx is not None
        if session.savepoint is None:
            session.conn.execute("savepoint s")
            session.savepoint = Transaction(tx.request, dict(tx.rows), dict(tx.past))
        elif self.dice.random() < 0.7:
            session.conn.execute("rollback to savepoint s")
            session.conn.execute("release savepoint s")
            session.tx, session.savepoint = session.savepoint, None
        else:
            session.conn.execute("release savepoint s")
            session.savepoint = None

    def _act_truncate(self, session: Session) -> None:
        session.conn.execute("truncate plain")
        tx = session.tx
        assert tx is not None
        keys = {k for t, k in tx.rows if t == "plain"} | set(self.model.tables["plain"].rows)
        for key in keys:
            if self.model.row(tx, "plain", key) is not None:
                self.model.delete(tx, "plain", key, "TRUNCATE")
