"""Every reason for which a statement has no preview: what `unsupported` can say.

Laws (kept by a test): each reason that the code gives is listed here, and each one listed is given
somewhere. `{}` stands for what differs. The page docs/explain-limits.md is made from this list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Limit:
    """A reason, and what is behind it."""

    reason: str
    why: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the reason looks like when it is given."""
        return re.compile(".*".join(map(re.escape, self.reason.split("{}"))), re.DOTALL)


_NOT_PARSED = (
    Limit(
        "the statement is not understood: {}",
        "the parser does not know it, such as `order by … using >` or `overriding user value`;"
        " Postgres may",
    ),
    Limit(
        "the statement has a shape that is not understood ({})",
        "the parser's tree is one that nobody has listed",
    ),
    Limit("{}: a name in a place that is not understood", "nothing is passed over in silence"),
    Limit("{}: no such column is known", "Postgres will say so, too, if it does not exist"),
    Limit("there is no relation {} in the catalog", "it does not exist, or is not in the snapshot"),
    Limit("{} has no column {}", "Postgres will say so, too"),
    Limit("where {} stands in the text", "such as `from docs *`"),
    Limit("a column written with the schema of {}", "where it cannot be told what it means"),
    Limit("the target of the write is not understood", "a form of it that is not known"),
    Limit("the assignment {} is not understood", "an assignment of no known form"),
    Limit("an assignment that is not understood", "the same in ON CONFLICT and MERGE"),
    Limit(
        "a row of assignments that is not understood",
        "`set (a, b) = …` in a form that is not known, in ON CONFLICT and MERGE",
    ),
    Limit("policy {} on {} is not understood", "the parser does not know its expression"),
    Limit("a policy on {} that cannot be renamed", "its columns cannot be found in its text"),
    Limit("view {} is not understood", "the parser does not know its query"),
    Limit("view {}, whose query is not known", "a view that leads back to itself"),
    Limit("MERGE that is not understood", "a form that is not known"),
    Limit("a WHEN of MERGE that is not understood", "an action of a form that is not known"),
    Limit(
        "an INSERT of MERGE that is not understood",
        "its columns or values are of a form that is not known",
    ),
    Limit("ON CONFLICT that is not understood", "a form that is not known"),
    Limit("ON CONFLICT with rows that are not understood", "VALUES of a form that is not known"),
    Limit(
        "ON CONFLICT with a source that is not understood",
        "neither VALUES nor a query of a known form",
    ),
)
_QUERIES = (
    Limit("SELECT … INTO, which makes a table", "CREATE TABLE … AS is explained"),
    Limit("system column {} of {}", "a subquery, which the table becomes, has none"),
    Limit("a system column of {}", "the same in a write"),
    Limit(
        "the whole row of {} as a value of its type",
        "the subquery that the table becomes has rows of no type: for a function that takes another"
        " or null rows of an outer join, or compared with a literal",
    ),
    Limit("TABLESAMPLE on {}", "a sample of the visible rows is another sample"),
    Limit("FOR UPDATE or FOR SHARE on a subquery", "whose rows it locks is not worked out"),
    Limit("FOR UPDATE or FOR SHARE on the view {}", "the same behind a view"),
    Limit(
        "GROUP BY that relies on the key of {}",
        "columns that follow from a key in GROUP BY, where they cannot be added to it",
    ),
    Limit("GROUP BY with renamed columns of {}", "the same with `as t (a, b)`"),
    Limit("{}, whose rows depend on who looks", "a view of Postgres's own that asks who reads it"),
)
_SESSION = (
    Limit("{}(), whose answer depends on who runs it", "a function of Postgres's own"),
    Limit("{}, which depends on the session", "such as current_schema"),
    Limit("current_setting() of a name that is computed", "which setting is read is not known"),
    Limit("current_setting() whose missing_ok is computed", "whether it may fail is not known"),
    Limit("current_setting() with arguments that are not understood", "an unknown form"),
    Limit("the setting {}, which depends on the session", "such as is_superuser"),
    Limit(
        'the setting "{}", which is read but not given: Postgres would refuse',
        "give it with --set, or --claims",
    ),
)
_FUNCTIONS = (
    Limit(
        "{}(), which runs with {}",
        "its answer may be another one when somebody else calls it; what in its body tells so is"
        " named",
    ),
    Limit("{}(), which calls {}", "the same of a function that it calls"),
    Limit("{}(), whose body reads {}", "a definer's function that reads the session"),
    Limit("{} reads {}", "a function that could be written out but for that"),
)
_WRITES = (
    Limit("a write through the view {}", "where the view protects, or what is behind it"),
    Limit("a rule on {}", "rules rewrite the statement"),
    Limit("trigger {} on {} calls {}(), {}", "a trigger that may do something else for the role"),
    Limit(
        "trigger {} on {}, which may change a row before ON CONFLICT or MERGE judges it",
        "the row to be judged is not known then",
    ),
    Limit("generated columns of {} in this write", "of ON CONFLICT and MERGE, for the same reason"),
    Limit("a volatile value for {} in this write", "judging it would draw another value"),
    Limit("{} on {}, which depends on the session", "a CHECK constraint"),
    Limit("the default of {}: {}", "a default that reads the session in such a way"),
    Limit("a default that depends on the session ({}) in this INSERT", "in a form of INSERT …"),
    Limit("INSERT … SELECT * into a table with a personal default", "its width is not known"),
    Limit("DEFAULT in a list of values that are set", "beside a default that reads the session"),
    Limit("WHERE CURRENT OF a cursor", "which row that is, only the session knows"),
    Limit("RETURNING WITH", "RETURNING with names for the old and new row"),
    Limit("RETURNING that starts with another table's columns", "such as `returning other.*, …`"),
    Limit("RETURNING * beside a join that is not understood", "its columns are not known"),
    Limit("RETURNING * beside JOIN … USING", "its columns are merged"),
)
_COMMANDS = (
    Limit("{} is a command without a plan, and no policy applies to it", "such as ALTER or SET"),
    Limit("DO runs code, and what that does cannot be known without running it", "it is not run"),
    Limit(
        "CALL runs code, and what that does cannot be known without running it{}", "it is not run"
    ),
    Limit(
        "EXECUTE runs a statement that was prepared elsewhere; give that statement",
        "here nothing is prepared",
    ),
    Limit(
        "REFRESH MATERIALIZED VIEW runs the view's query with its owner's rights",
        "explain that query as the owner",
    ),
    Limit("a psql command, which only psql knows", "a backslash outside quotes"),
    Limit("a default of {} that depends on the session", "in COPY … FROM"),
    Limit("{} that is not understood", "a command of no known form"),
    Limit(
        "{}; but Postgres plans without it",
        "a right that the role lacks, for a table that Postgres leaves out of the plan, as behind"
        " `where false`; then it does not ask for the right",
    ),
)
GROUPS = (
    ("What is not understood", _NOT_PARSED), ("Queries", _QUERIES),
    ("What depends on the session", _SESSION), ("Functions", _FUNCTIONS), ("Writes", _WRITES),
    ("Commands", _COMMANDS),
)  # fmt: skip


def limit_of(reason: str) -> Limit | None:
    """The entry of a reason that was given."""
    every: Sequence[Limit] = [limit for _, limits in GROUPS for limit in limits]
    return next((limit for limit in every if limit.pattern.fullmatch(reason)), None)
