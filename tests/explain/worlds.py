"""Small random worlds: tables, views, policies, grants and roles, and statements about them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

TABLES = ("docs", "teams", "notes")
COLUMNS = ("id", "owner", "team", "val", "note", "flag")
_DEFINITIONS = """
create table {name} (
    id int primary key, owner text default current_user, team int, val int default 1,
    note text, flag boolean
)
"""
PEOPLE = ("ann", "bob", "cy")


@dataclass
class World:
    """A world as the SQL that makes it; role names carry a tag, since roles are the cluster's."""

    seed: int
    tag: str
    ddl: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)

    def make(self) -> World:
        """Choose everything."""
        chance = random.Random(self.seed)
        self.roles = [f"{name}_{self.tag}" for name in (*PEOPLE, "staff")]
        for name in TABLES:
            self.ddl.append(_DEFINITIONS.format(name=name))
            self._rows(chance, name)
        for name in TABLES:
            self._security(chance, name)
        for number in range(chance.randint(1, 3)):
            self._view(chance, f"view{number}")
        member = chance.choice(self.roles[:3])
        if chance.random() < 0.2:
            self.ddl.append(f"alter role {member} noinherit")
        self.ddl.append(f"grant {self.roles[3]} to {member}")
        for name in TABLES:
            self._owner(chance, name)
        return self

    def _owner(self, chance: random.Random, name: str) -> None:
        """Sometimes a role owns a table, with row-level security forced or not; and triggers."""
        if chance.random() < 0.15:
            self.ddl.append(f"alter table {name} owner to {chance.choice(self.roles)}")
            if chance.random() < 0.5:
                self.ddl.append(f"alter table {name} force row level security")
        if chance.random() < 0.15:
            self.ddl.append(
                f"create function tidy_{name}() returns trigger language plpgsql as"
                " $$ begin new.val := coalesce(new.val, 0) + 1; return new; end $$"
            )
            events = chance.choice(["insert", "update", "insert or update"])
            self.ddl.append(
                f"create trigger tidy before {events} on {name}"
                f" for each row execute function tidy_{name}()"
            )

    def _rows(self, chance: random.Random, name: str) -> None:
        people = [*self.roles, "nobody"]
        for key in range(chance.randint(0, 9)):
            values = (
                key, chance.choice(people), chance.choice([0, 1, 2, None]),
                chance.choice([0, 1, 5, 9, None]), chance.choice(["x", "y", "secret", None]),
                chance.choice([True, False, None]),
            )  # fmt: skip
            self.ddl.append(f"insert into {name} values ({', '.join(map(_literal, values))})")

    def _security(self, chance: random.Random, name: str) -> None:
        if chance.random() < 0.85:
            self.ddl.append(f"alter table {name} enable row level security")
        for number in range(chance.choice([0, 1, 1, 2, 2, 3, 4])):
            self.ddl.append(self._policy(chance, name, number))
        if chance.random() < 0.8:
            self.ddl.append(f"grant select, insert, update, delete on {name} to public")
        else:
            for role in self.roles:
                columns = ", ".join(sorted(chance.sample(COLUMNS, chance.randint(1, 6))))
                for right in ("select", "insert", "update"):
                    if chance.random() < 0.7:
                        self.ddl.append(f"grant {right} ({columns}) on {name} to {role}")
                if chance.random() < 0.6:
                    self.ddl.append(f"grant delete on {name} to {role}")

    def _policy(self, chance: random.Random, name: str, number: int) -> str:
        command = chance.choice(["all", "all", "select", "select", "insert", "update", "delete"])
        kind = "restrictive" if chance.random() < 0.25 else "permissive"
        to = chance.choice(["public", "public", *self.roles])
        parts = [f"create policy p{number} on {name} as {kind} for {command} to {to}"]
        others = [other for other in TABLES if TABLES.index(other) > TABLES.index(name)]
        if chance.random() < 0.02:
            others = list(TABLES)  # may be endless
        if command != "insert":
            parts.append(f"using ({self.predicate(chance, name, others)})")
        if command in ("insert", "update", "all") and (
            command == "insert" or chance.random() < 0.4
        ):
            parts.append(f"with check ({self.predicate(chance, name, others)})")
        return " ".join(parts)

    def predicate(self, chance: random.Random, name: str, others: list[str], depth: int = 0) -> str:
        """A condition as policies have it."""
        other = chance.choice(others) if others else None
        forms = [
            "owner = current_user",
            "owner = current_user",
            "owner = nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'",
            "team = (nullif(current_setting('flux.claims', true), '')::jsonb ->> 'team')::int",
            "coalesce(nullif(current_setting('app.level', true), ''), '0')::int > 3",
            "flag", "not flag", "true", "true", "val > 0", "val <> 5", "team in (0, 1)",
            "note is distinct from 'secret'", "note = 'x'",
            f"pg_has_role('{self.roles[3]}', 'member')",
        ]  # fmt: skip
        if other is not None:
            forms += [
                f"exists (select 1 from {other} as o where o.team = {name}.team)",
                f"team in (select team from {other} where owner = current_user)",
                f"id < (select count(*) from {other})",
            ] * 2
        first = chance.choice(forms)
        if depth or chance.random() < 0.6:
            return first
        second = self.predicate(chance, name, others, depth + 1)
        return f"({first}) {chance.choice(['and', 'or'])} ({second})"

    def _view(self, chance: random.Random, name: str) -> None:
        options = chance.choice(["", "with (security_invoker)", "with (security_invoker)"])
        base = chance.choice([*TABLES, *self.views])
        where = chance.choice(["", " where owner = current_user", " where val > 0 or flag"])
        self.views.append(name)
        columns = ", ".join(COLUMNS)
        self.ddl.append(f"create view {name} {options} as select {columns} from {base}{where}")
        self.ddl.append(f"grant select on {name} to public")
        if chance.random() < 0.5:
            self.ddl.append(f"alter view {name} owner to {chance.choice(self.roles)}")


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower()


@dataclass
class Queries:
    """Random statements about a world."""

    world: World
    chance: random.Random
    version: int = 18

    def select(self) -> str:
        """A query."""
        return self.chance.choice(
            [self._plain, self._plain, self._joined, self._joined, self._grouped, self._nested,
             self._cte, self._union, self._outer, self._lateral, self._locked, self._odd]
        )()  # fmt: skip

    def table(self) -> str:
        return self.chance.choice([*TABLES, *TABLES, *self.world.views])

    def condition(self, alias: str = "") -> str:
        """A condition as users write it; some of them fail on some rows."""
        a = f"{alias}." if alias else ""
        return self.chance.choice([
            f"{a}val > 0", f"{a}owner = current_user", f"{a}team = 1", f"{a}note = 'x'",
            f"{a}flag", f"{a}id between 1 and 5", f"{a}val is null", f"{a}note <> 'secret'",
            f"10 / {a}val > 1", f"{a}note::text like 's%'", f"length({a}note) > 1",
            f"{a}id in (select id from {self.table()})",
            f"exists (select from {self.table()} as i where i.team = {a}team)" if alias
            else "true",
            f"{a}team = any (array[0, 1])", f"not ({a}val = 5 or {a}flag)",
        ])  # fmt: skip

    def _where(self, alias: str = "") -> str:
        return f" where {self.condition(alias)}" if self.chance.random() < 0.6 else ""

    def _plain(self) -> str:
        what = self.chance.choice(
            ["*", "id, owner", "count(*)", "d.*", "d", "d.note, d.val", "id + 1 as next", "1"]
        )
        return f"select {what} from {self.table()} as d{self._where('d')}"

    def _joined(self) -> str:
        kind = self.chance.choice(["join", "left join", "right join", "full join"])
        on = self.chance.choice(["on a.team = b.team", "using (team)", "on a.id = b.val"])
        what = self.chance.choice(["a.id, b.id", "*", "count(*)", "a.owner, b.note", "team"])
        if what == "team" and not on.startswith("using"):
            what = "b.team"
        return f"select {what} from {self.table()} a {kind} {self.table()} b {on}{self._where('b')}"

    def _grouped(self) -> str:
        table, where = self.table(), self._where()
        return self.chance.choice([
            f"select team, count(*), sum(val) from {table}{where} group by team",
            f"select owner, max(val) from {table}{where} group by 1 having count(*) > 1",
            f"select d.id, d.note, d.val from docs d{self._where('d')} group by d.id",
            f"select distinct team from {table}{where} order by team nulls first limit 2",
            f"select team, rank() over (partition by flag order by id) from {table}{where}",
            f"select count(*) filter (where val > 1) from {table}{where}",
        ])  # fmt: skip

    def _nested(self) -> str:
        inner = f"select * from {self.table()}{self._where()}"
        return f"select s.id, s.note from ({inner}) as s{self._where('s')}"

    def _cte(self) -> str:
        name = self.chance.choice(["q", self.table()])
        return (
            f"with {name} as (select * from {self.table()}{self._where()})"
            f" select {name}.id, x.owner from {name} join {self.table()} x"
            f" on x.id = {name}.id"
        )

    def _union(self) -> str:
        word = self.chance.choice(["union", "union all", "except", "intersect"])
        return (
            f"select id, team from {self.table()}{self._where()} {word}"
            f" select id, team from {self.table()}{self._where()} order by 1, 2"
        )

    def _outer(self) -> str:
        return (
            f"select t.id, (select max(i.val) from {self.table()} i where i.team = t.team)"
            f" from {self.table()} t{self._where('t')}"
        )

    def _lateral(self) -> str:
        return (
            f"select t.id, l.n from {self.table()} t, lateral (select count(*) as n"
            f" from {self.table()} i where i.val < t.val) l{self._where('t')}"
        )

    def _locked(self) -> str:
        how = self.chance.choice(["for update", "for share", "for no key update of d"])
        return f"select id from {self.chance.choice(TABLES)} as d{self._where('d')} {how}"

    def _odd(self) -> str:
        table = self.table()
        return self.chance.choice([
            f"table {table}", f"select from {table}", f"select to_jsonb(d) from {table} d",
            f"select current_user, owner from {table}", f"values ((select count(*) from {table}))",
            f"select * from only {self.chance.choice(TABLES)}",
            f"select a, b from {table} as t(a, b)", f"select (d).id, d.val from {table} d",
            f"select id from public.{table} natural join docs",
            f"with recursive r(n) as (select 1 union select n + 1 from r, {table} where n < 3)"
            " select * from r",
            f"select id, generate_series(1, val) from {table} where val < 3",
            f"select id from {table} as d where d in (select d from {table} as d where d.id > 2)",
            f"select d.id, d.*::text from {table} as d where row(d.*) is not null",
        ])  # fmt: skip

    def write(self) -> str:
        """An INSERT, UPDATE or DELETE."""
        return self.chance.choice([self._insert, self._update, self._update, self._delete])()

    def _returning(self, alias: str = "") -> str:
        a = f"{alias}." if alias else ""
        return self.chance.choice(
            ["", "", "", f" returning {a}id", " returning *", f" returning {a}note as n, {a}owner",
             " returning 1", f" returning {a}val + 1"]
        )  # fmt: skip

    def _value(self, column: str) -> str:
        people = [f"'{role}'" for role in self.world.roles]
        return self.chance.choice({
            "id": ["3", "11", "12", "13"], "team": ["0", "1", "2", "null", "'1'"],
            "owner": [*people, "current_user", "default", "null"],
            "val": ["1", "5", "7", "default", "null"], "note": ["'x'", "'secret'", "null"],
            "flag": ["true", "false", "null"],
        }[column])  # fmt: skip

    def _insert(self) -> str:
        table = self.chance.choice(TABLES)
        columns = ["id", *self.chance.sample(COLUMNS[1:], self.chance.randint(0, 5))]
        rows = [", ".join(map(self._value, columns)) for _ in range(self.chance.choice([1, 1, 2]))]
        values = "values " + ", ".join(f"({row})" for row in rows)
        other = self.table()
        source, named = self.chance.choice([
            (values, columns), (values, columns), (values, columns),
            (f"select id + 20, team, 'x' from {other}{self._where()}", ["id", "team", "note"]),
            (f"select id + 20, owner from {other} order by id limit 1", ["id", "owner"]),
            (f"select max(id) + 50 from {other}", ["id"]),
            ("values (30, default, 1)", []),
            ("default values", []),
        ])  # fmt: skip
        alias = self.chance.choice(["", "", " as w"])
        into = f"{table}{alias}" + (f" ({', '.join(named)})" if named else "")
        return f"insert into {into} {source}{self._returning(alias[4:])}"

    def _set(self) -> str:
        columns = self.chance.sample(COLUMNS[1:], self.chance.choice([1, 1, 2]))
        parts = [f"{column} = {self._value(column)}" for column in columns]
        if self.chance.random() < 0.3 and "val" not in columns:
            parts.append("val = val + 1")
        return ", ".join(parts)

    def _update(self) -> str:
        table = self.chance.choice(TABLES)
        form = self.chance.randint(0, 4)
        if form == 0:
            return (
                f"update {table} as w set {self._set()} from {self.table()} as f"
                f" where f.id = w.id{self._returning('w')}"
            )
        if form == 1:
            return f"update {table} set (val, note) = (2, 'y'){self._where()}{self._returning()}"
        if form == 2:
            return (
                f"with gone as (update {table} as o set {self._set()}{self._where('o')}"
                f" returning o.id, o.team) select * from gone"
            )
        alias = self.chance.choice(["", " as w", " o"])
        name = alias.split()[-1] if alias else ""
        return f"update {table}{alias} set {self._set()}{self._where(name)}{self._returning(name)}"

    def _delete(self) -> str:
        table = self.chance.choice(TABLES)
        if self.chance.random() < 0.3:
            return (
                f"delete from {table} as w using {self.table()} as f"
                f" where f.team = w.team and {self.condition('f')}{self._returning('w')}"
            )
        if self.chance.random() < 0.3:
            return (
                f"with gone as (delete from {table}{self._where()} returning *)"
                f" select count(*), max(id) from gone"
            )
        return f"delete from {table}{self._where()}{self._returning()}"

    def upsert(self) -> str:
        """An INSERT with ON CONFLICT."""
        table, alias = self.chance.choice(TABLES), self.chance.choice(["", " as w"])
        columns = ["id", *self.chance.sample(COLUMNS[1:], self.chance.randint(0, 4))]
        keys = self.chance.sample(["1", "2", "3", "4", "14"], self.chance.choice([1, 1, 2]))
        rows = [", ".join([key, *map(self._value, columns[1:])]) for key in keys]
        source = "values " + ", ".join(f"({row})" for row in rows)
        if self.chance.random() < 0.25:
            columns = ["id", "owner", "note"]
            source = f"select id, owner, 'x' from {self.table()}{self._where()}"
        name = alias.split()[-1] if alias else table
        act = self.chance.choice([
            "on conflict do nothing", "on conflict (id) do nothing",
            f"on conflict (id) do update set {self._set_conflict(name)}",
            f"on conflict (id) do update set {self._set_conflict(name)}",
            f"on conflict (id) do update set {self._set_conflict(name)}"
            f" where {self.condition(name)}",
            f"on conflict on constraint {table}_pkey do update set note = excluded.note",
            "on conflict (id) do update set (team, val) = (excluded.team, 3)",
        ])  # fmt: skip
        into = f"{table}{alias} ({', '.join(columns)})"
        return f"insert into {into} {source} {act}{self._returning(name)}"

    def _set_conflict(self, name: str) -> str:
        return self.chance.choice([
            "note = excluded.note", f"val = {name}.val + 1", "team = 1, note = 'z'",
            "owner = current_user", "owner = default", "owner = excluded.owner",
            f"team = (select max(team) from {self.table()})",
            f"(team, note) = (select max(team), 'q' from {self.table()})",
            f"(val, owner) = (select {name}.val, t.owner from {self.chance.choice(TABLES)} as t"
            f" where t.id = {name}.id)",
        ])  # fmt: skip

    def merge(self) -> str:
        """A MERGE."""
        table, source = self.chance.choice(TABLES), self.table()
        using = self.chance.choice([
            f"{source} as s", f"(select id, team, owner from {source}{self._where()}) as s",
            "(values (1, 1, 'x'), (17, 2, 'y')) as s (id, team, owner)",
        ])  # fmt: skip
        on = self.chance.choice(["w.id = s.id", "w.id = s.id and w.team = s.team"])
        also = self.chance.choice(["", "", f" and {self.condition('w')}", " and s.team = 1"])
        acts = [
            f"when matched{also} then update set {self._set_merge()}",
            f"when matched{also} then delete",
            "when matched and s.team = 2 then do nothing",
        ]
        others = [
            "when not matched then insert (id, team) values (s.id + 100, s.team)",
            "when not matched and s.id > 2 then insert (id, owner, val)"
            " values (s.id + 100, s.owner, default)",
            "when not matched then insert values (s.id + 100, current_user, 2)",
        ]
        whens = self.chance.sample(acts, self.chance.choice([0, 1, 1, 2]))
        whens += self.chance.sample(others, self.chance.choice([0, 1])) if whens else others[:1]
        returning = ""
        if self.version >= 17:
            extra = [
                "",
                "",
                " when not matched by source then update set note = 'lost'",
                f" when not matched by source and {self.condition('w')} then delete",
            ]
            whens.append(self.chance.choice(extra))
            returning = self.chance.choice(["", "", " returning merge_action(), w.id"])
        return f"merge into {table} as w using {using} on {on} {' '.join(whens)}{returning}"

    def _set_merge(self) -> str:
        return self.chance.choice(
            [
                "team = s.team",
                "val = w.val + 1, note = 'm'",
                "owner = current_user, val = default",
                "(team, val) = (select s.team, max(t.val) from docs as t)",
            ]
        )

    def claims(self) -> tuple[Any, dict[str, str]]:
        """Claims, and other settings."""
        person = self.chance.choice(self.world.roles)
        claims = self.chance.choice([None, {"sub": person, "team": self.chance.randint(0, 2)}])
        return claims, self.chance.choice([{}, {"app.level": "5"}, {"app.level": "2"}])


def claim_settings(claims: Any, settings: dict[str, str]) -> dict[str, str]:
    """The settings that a session with these claims has."""
    text = json.dumps(claims, ensure_ascii=False)
    given = {} if claims is None else {"flux.claims": text, "request.jwt.claims": text}
    return {**given, **settings}
