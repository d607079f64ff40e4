"""Try out the indexes that are advised: would Postgres use them, and what would a query cost then?

With the extension hypopg an index is only pretended, in this session. Without it, and only on
request, it is really built in a transaction that is rolled back: while it is built nobody can write
to the table (a SHARE lock; they can read), so a table above a size is left alone, and neither the
lock nor the building may take long. What remains of that are the table's counts of rows and pages
in pg_class, which building an index refreshes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import psycopg
from psycopg import sql as composed

from flux_pg.cli.explain_page import size
from flux_pg.cli.explain_plan import NotPlanned, as_role, plan_of
from flux_pg.cli.scope import Scope
from flux_pg.cli.session import Database, open_database
from flux_pg.explain import plan as plans
from flux_pg.explain.advice import Advice
from flux_pg.explain.catalog import Relation
from flux_pg.explain.document import Statement
from flux_pg.explain.indexes import Proposal, Trial
from flux_pg.explain.session import Session

_NAME = "flux_trial_of_an_index"
_MOST_BYTES = 1 << 30
_LIMITS = {"lock_timeout": "1s", "statement_timeout": "60s"}
_MOST_TRIALS = 3  # for one piece of advice
_ALIKE = 1.05  # costs within this factor are no reason for a larger index
_TREE = "select relid from pg_partition_tree(%s::regclass) union select %s::regclass"
_UNKNOWN = (
    "rows were changed under an older transaction that is still in sight: Postgres may use the"
    " index later, and not yet; try again when that has ended"
)


def try_indexes(
    scope: Scope, database: Database, who: Session, statements: Sequence[Statement], *, build: bool
) -> None:
    """Put into each piece of advice about an index what Postgres would make of it.

    Args:
        scope: Where progress is told.
        database: A connection that may become the role.
        who: Whose plans they are.
        statements: What was explained.
        build: Build indexes and roll them back where hypopg is not there.
    """
    if not any(warning.indexes for each in statements for warning in each.warnings):
        return
    schema = _hypopg(database)
    if schema is not None:
        _try_all(Pretended(database, who, schema), statements)
    if build:
        # Its owner, and no superuser: planning runs functions of the project.
        with open_database(scope.settings, admin=True) as owner:
            _try_all(Built(owner, who, scope), statements)


def _hypopg(database: Database) -> str | None:
    """The schema of extension hypopg, if it is there."""
    row = database.execute(
        "select n.nspname as schema from pg_extension as e"
        " join pg_namespace as n on n.oid = e.extnamespace where e.extname = 'hypopg'"
    ).fetchone()
    return None if row is None else str(row["schema"])


def _try_all(trials: Trials, statements: Sequence[Statement]) -> None:
    for statement in statements:
        statement.warnings = [trials.tried(statement, each) for each in statement.warnings]


class Trials:
    """Tries out indexes in one session; the way of making them is the subclass's."""

    def __init__(self, database: Database, session: Session) -> None:
        self._database = database
        self._session = replace(session, login=database.info.user)
        self._known: dict[tuple[str, str], Trial] = {}

    def tried(self, statement: Statement, advice: Advice) -> Advice:
        """The advice with the best index that Postgres would use; or that it would use none."""
        if advice.trial is not None and advice.trial.used is not None:
            return advice
        trials = [
            self._trial(proposal, statement.planned, advice.probe)
            for proposal in advice.indexes[:_MOST_TRIALS]
        ]
        used = [trial for trial in trials if trial.used]
        unused = [trial for trial in trials if trial.used is False]
        if used:
            best = _best(used)
            return replace(advice, remedy=best.proposal.statement, trial=best)
        if unused and len(unused) == len(trials):
            remedy = f"No index: Postgres would not use `{unused[0].proposal.statement}`."
            return replace(advice, remedy=remedy, trial=unused[0])
        untried = [trial for trial in trials if trial.used is None]
        return replace(advice, trial=untried[0]) if untried else advice

    def _trial(self, proposal: Proposal, sql: str, probe: str | None) -> Trial:
        key = (proposal.unnamed, probe or sql)
        if key not in self._known:
            try:
                with self._database.transaction(force_rollback=True):
                    self._known[key] = self._in_transaction(proposal, sql, probe)
            except (NotPlanned, psycopg.Error) as error:
                note = str(error).splitlines()[0]
                if "set role" in note:
                    note += (
                        f"; try again after: grant {self._session.role} to {self._session.login}"
                    )
                self._known[key] = Trial(proposal, note=note)
        return self._known[key]

    def _in_transaction(self, proposal: Proposal, sql: str, probe: str | None) -> Trial:
        raise NotImplementedError

    def _plan(self, sql: str, probe: str | None) -> plans.Node:
        """The plan as the role; of what Postgres itself looks for, as this login."""
        login = self._session.login
        with as_role(self._database, self._session if probe is None else Session(login, login)):
            return plan_of(self._database, probe or sql)


class Pretended(Trials):
    """With hypopg: nothing is built, nothing is locked."""

    def __init__(self, database: Database, session: Session, schema: str) -> None:
        super().__init__(database, session)
        self._schema = composed.Identifier(schema)

    def _in_transaction(self, proposal: Proposal, sql: str, probe: str | None) -> Trial:
        before = self._plan(sql, probe)
        make = composed.SQL("select * from {}.hypopg_create_index(%s)").format(self._schema)
        made = self._database.execute(make, (proposal.unnamed,)).fetchone()
        if made is None:
            return Trial(proposal, note="hypopg made no index of it")
        measure = composed.SQL("select {}.hypopg_relation_size(%s) as bytes").format(self._schema)
        try:
            after = self._plan(sql, probe)
            bytes_ = self._database.execute(measure, (made["indexrelid"],)).fetchone()
        finally:
            self._database.execute(
                composed.SQL("select {}.hypopg_reset()").format(self._schema)
            )  # fmt: skip
        return Trial(
            proposal, "hypothetical", _uses(after, {made["indexname"]}), before["Total Cost"],
            after["Total Cost"], bytes_["bytes"] if bytes_ else None,
        )  # fmt: skip


class Built(Trials):
    """Builds the index, plans, and rolls back."""

    def __init__(self, database: Database, session: Session, scope: Scope) -> None:
        super().__init__(database, session)
        self._scope = scope
        self._announced: set[str] = set()

    def _in_transaction(self, proposal: Proposal, sql: str, probe: str | None) -> Trial:
        relation = proposal.relation
        bytes_ = self._table_bytes(relation)
        if bytes_ > _MOST_BYTES:
            return Trial(
                proposal, note=f"{relation.qualified} is {size(bytes_)}, above the"
                f" {size(_MOST_BYTES)} up to which an index is built only to be tried: use hypopg",
            )  # fmt: skip
        for name, value in _LIMITS.items():
            self._database.execute("select set_config(%s, %s, true)", (name, value))
        before = self._plan(sql, probe)
        self._announce(relation, bytes_)
        start = time.monotonic()
        self._database.execute(proposal.named(_NAME).encode())
        after = self._plan(sql, probe)
        names, index_bytes, is_later = self._built(relation)
        used = _uses(after, names)
        if not used and is_later:
            return Trial(proposal, note=_UNKNOWN)
        return Trial(
            proposal, "created", used, before["Total Cost"], after["Total Cost"], index_bytes,
            f"nobody could write to {relation.qualified} for {time.monotonic() - start:.2f} s",
        )  # fmt: skip

    def _announce(self, relation: Relation, bytes_: int) -> None:
        if relation.qualified not in self._announced:
            self._announced.add(relation.qualified)
            self._scope.note(
                f"building indexes on {relation.qualified} ({size(bytes_)}), each to be rolled"
                " back: until then nobody can write to it (SHARE lock; waits 1 s for it, takes"
                " 60 s at most)"
            )

    def _table_bytes(self, relation: Relation) -> int:
        table = composed.Identifier(relation.schema, relation.name).as_string(self._database)
        row = self._database.execute(
            f"select coalesce(sum(pg_table_size(relid)), 0)::bigint as bytes from ({_TREE}) as t",
            (table, table),
        ).fetchone()
        assert row is not None
        return int(row["bytes"])

    def _built(self, relation: Relation) -> tuple[set[str], int, bool]:
        """The names of what was built, one for each part; its size; whether it serves only later
        transactions."""
        index = composed.Identifier(relation.schema, _NAME).as_string(self._database)
        row = self._database.execute(
            "select array_agg(c.relname::text) as names, bool_or(i.indcheckxmin) as later,"
            f" sum(pg_relation_size(c.oid))::bigint as bytes from ({_TREE}) as t"
            " join pg_class as c on c.oid = t.relid join pg_index as i on i.indexrelid = c.oid",
            (index, index),
        ).fetchone()
        assert row is not None
        return set(row["names"]), row["bytes"], row["later"]


def _best(used: Sequence[Trial]) -> Trial:
    """The smallest index of those that are about as cheap as the cheapest."""
    least = min(trial.cost_after or 0 for trial in used)
    near = [trial for trial in used if (trial.cost_after or 0) <= least * _ALIKE]
    return min(near, key=lambda trial: trial.size_bytes or 0)


def _uses(plan: plans.Node, names: set[str]) -> bool:
    return any(node.get("Index Name") in names for node in plans.walk(plan))
