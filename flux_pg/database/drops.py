"""DROP DATABASE, on a server of our own, so that it ends.

By itself it may wait for ever: it asks every process of the server to let go of the database's
files (a ProcSignalBarrier) and waits for each answer. Some never come:

- A process whose statement is cancelled (by lock_timeout, say) in the moment in which it is asked
  forgets the question: ProcessInterrupts raises the error before it comes to the barrier, and
  looks again only at the next signal. Seen with Postgres 15 and 18.
- One that waits for its client, which reads nothing, or owes it the rows of a COPY, answers when
  the client goes on: a program that was stopped with Ctrl-Z never does.

So each try has a limit. A drop that was interrupted leaves a database that nobody can connect to
and that can be dropped again; the next try asks everybody anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

TRIES_S = (5.0, 10.0, 20.0)
"""A drop takes a second at most, unless the disk is slow."""

_END_SILENT = """
select pg_terminate_backend(pid)
from pg_stat_activity
where backend_type = 'client backend' and state = 'active' and wait_event_type = 'Client'
    and state_change < now() - %s * interval '1 second'
"""


def drop_database(
    conn: psycopg.Connection[Any], name: str, tries_s: Sequence[float] = TRIES_S
) -> bool:
    """Drop a database, with whoever is connected to it; blocks.

    Who has waited for its client ever since the first try is disconnected, whatever its database.

    Args:
        conn: A superuser's, on another database, in autocommit.
        name: The database; it need not be there.
        tries_s: How long each try may take.

    Returns:
        Whether it is gone. If not, nobody can connect to it, and it can be dropped another time.
    """
    statement = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
    waited_s = 0.0
    for limit_s in tries_s:
        if waited_s:
            conn.execute(_END_SILENT, (waited_s,))
        limit_ms = f"{limit_s * 1000:.0f}"
        conn.execute("select set_config('statement_timeout', %s, false)", (limit_ms,))
        try:
            conn.execute(statement)
            return True
        except (psycopg.errors.QueryCanceled, psycopg.errors.ObjectInUse):
            waited_s += limit_s
        finally:
            conn.execute("reset statement_timeout")
    return False
