"""A scratch database rolled forward is the one that would be made anew; a reset one is as made."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from flux_pg.replay.scratch import Scratch
from flux_pg.replay.scratch_forward import ReloadNeeded, net
from flux_pg.replay.scratch_schema import ScratchError
from tests.conftest import Database, Server
from tests.replay.scratch import dump, rows, run, scratch_of, snapshot, value
from tests.replay.test_scratch import SCHEMA, STEPS


async def test_rolled_forward_over_every_kind_of_change(
    database: Database, pg18: Server, tmp_path: Path
) -> None:
    run(database.admin, *SCHEMA)
    moments = []
    for step in STEPS:
        moments.append((snapshot(database.admin), dump(database.superuser)))
        run(database.admin, step)
    async with scratch_of(database, moments[0][0], pg18, tmp_path) as scratch:
        assert dump(scratch.admin_url) == moments[0][1]
        for at, told in moments[1::2]:
            run(scratch.admin_url, "update people set name = 'spoilt'", "delete from bag")
            await scratch.roll_forward(at)
            assert dump(scratch.admin_url) == told


async def test_what_a_replay_writes_is_forgotten_and_recorded_there(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    run(
        database18.admin,
        "create table t (id int primary key, a int)",
        "insert into t values (1, 1)",
    )
    async with scratch_of(database18, snapshot(database18.admin), pg18, tmp_path) as scratch:
        run(scratch.database_url, "update t set a = 2", "insert into t values (2, 2)")
        assert value(scratch.database_url, "select count(*) from flux.mutations") == 2
        held = psycopg.connect(scratch.database_url)
        await scratch.reset()  # ends whoever is connected
        held.close()
        assert rows(scratch.database_url, "select * from t") == [(1, 1)]
        assert value(scratch.database_url, "select count(*) from flux.mutations") == 0


async def test_user_triggers_stay_off_while_rolling_and_on_afterwards(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    run(
        database18.admin,
        "create table t (id int primary key, a int)",
        "create function twice() returns trigger language plpgsql as"
        " $$ begin new.a := new.a * 2; return new; end $$",
        "create trigger twice before insert or update on t for each row execute function twice()",
        "create trigger always before insert on t for each row execute function twice()",
        "alter table t enable always trigger always",
    )
    first = snapshot(database18.admin)
    run(database18.admin, "insert into t values (1, 1)", "update t set a = 5")
    async with scratch_of(database18, first, pg18, tmp_path) as scratch:
        await scratch.roll_forward(snapshot(database18.admin))
        assert rows(scratch.database_url, "select * from t") == [(1, 10)]
        run(scratch.database_url, "insert into t values (2, 1)")
        assert rows(scratch.database_url, "select a from t where id = 2") == [(4,)]


async def test_only_forward(database18: Database, pg18: Server, tmp_path: Path) -> None:
    run(database18.admin, "create table t (id int primary key)")
    first = snapshot(database18.admin)
    run(database18.admin, "insert into t values (1)")
    async with scratch_of(database18, snapshot(database18.admin), pg18, tmp_path) as scratch:
        assert isinstance(scratch, Scratch)
        with pytest.raises(ScratchError, match="not later"):
            await scratch.roll_forward(first)


def test_mutations_are_netted_by_row() -> None:
    found = net(
        [
            (1, "I", None, "1", [1, 2], [], ["1", "a"]),
            (2, "U", "1", "1", [2], ["a"], ["b"]),
            (3, "U", "2", "2", [2], ["x"], ["y"]),
            (4, "U", "2", "2", [3], [None], ["z"]),
            (5, "D", "3", None, [1, 2], ["3", "c"], []),
            (6, "I", None, "3", [1, 2], [], ["3", "d"]),
            (7, "I", None, "4", [1, 2], [], ["4", "e"]),
            (8, "D", "4", None, [1, 2], ["4", "e"], []),
        ]
    )
    assert found.made == [{1: "1", 2: "b"}, {1: "3", 2: "d"}]
    assert found.gone == ["3"]
    assert found.changed == {"2": {2: "y", 3: "z"}}
    with pytest.raises(ReloadNeeded):
        net([(1, "U", "1", "2", [1], ["1"], ["2"])])
