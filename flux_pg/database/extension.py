"""Schema `flux` as a Postgres extension: the same files, assembled into one script.

`create extension flux` needs a superuser and a server that can read the two files. From Postgres
18 on they may lie anywhere (`extension_control_path`); before, they go into the server's share
directory.

What differs from the plain way, and why:

- Every table and sequence is marked with pg_extension_config_dump, or pg_dump would leave its rows
  out. Rows that the script itself makes must then not collide with those that a restore copies in:
  default redactions are not dumped, settings replace what is there (triggers/replace_setting.sql),
  flux.schema_version stays with its installation.
- Event triggers are taken out of the extension again. As members they would exist from the start
  of a restore and track its tables a second time; on their own pg_dump writes them last. So the
  script must not make them during a restore: it knows one by `xmloption`, which every dump sets at
  its start and hardly anybody else ever does.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg

from flux_pg.database import sql_files
from flux_pg.database.binaries import Binaries
from flux_pg.database.schema import (
    InstallResult,
    SchemaError,
    grant_backup,
    lock_and_read_version,
)
from flux_pg.database.sql_files import Body, SqlFile

_HEAD = """\
\\echo Use "create extension flux" to load this file. \\quit

{roles}
select pg_catalog.set_config('flux.installer_role', pg_catalog.current_setting('role'), true);
alter schema flux owner to flux_owner;
set local role flux_owner;
set local search_path = pg_catalog, pg_temp;
"""

_VERSION = """
insert into flux.schema_version (version, tables_checksum, code_checksum, installed_as)
values ('{version}', '{tables}', '{code}', 'extension');
"""

_INSTALLER = """
select pg_catalog.set_config('role', pg_catalog.current_setting('flux.installer_role'), true);
"""

_TAIL = """
do $$
declare
    v_name text;
begin
    for v_name in
        select c.oid::regclass::text
        from pg_catalog.pg_class as c
        where c.relnamespace = 'flux'::regnamespace
            and c.relkind in ('r', 'S')
            and c.relname <> 'schema_version'
    loop
        perform pg_extension_config_dump(
            v_name::regclass,
            case when v_name = 'flux.redactions' then 'where not is_default' else '' end
        );
    end loop;
    for v_name in
        select e.evtname
        from pg_catalog.pg_event_trigger as e
        join pg_catalog.pg_depend as d on d.classid = 'pg_event_trigger'::regclass
            and d.objid = e.oid and d.deptype = 'e'
        join pg_catalog.pg_extension as x on x.oid = d.refobjid and x.extname = 'flux'
    loop
        execute format('alter extension flux drop event trigger %I', v_name);
    end loop;
end
$$;
"""


def script(body: Body | None = None) -> str:
    """Text of `flux--VERSION.sql`."""
    body = body or sql_files.body()
    parts = [_HEAD.format(roles=sql_files.read("roles.sql"))]
    parts += [_titled(file.name, file.text) for file in body.files if not file.superuser]
    parts.append(
        _VERSION.format(version=body.version, tables=body.tables_checksum, code=body.code_checksum)
    )
    parts.append(_INSTALLER)
    parts += [_unless_restoring(file) for file in body.files if file.superuser]
    parts.append(_TAIL)
    return "\n".join(parts)


def write(directory: Path, body: Body | None = None) -> Path:
    """Write the control file, the script and the upgrade scripts into a directory.

    Returns:
        The directory, which is made if it is missing. It should be named `extension`, the name
        under which Postgres looks below each entry of `extension_control_path`.
    """
    body = body or sql_files.body()
    directory.mkdir(parents=True, exist_ok=True)
    control = sql_files.read("flux.control").replace("@VERSION@", body.version)
    (directory / "flux.control").write_text(control)
    (directory / f"flux--{body.version}.sql").write_text(script(body))
    for (old, new), text in sql_files.upgrades().items():
        (directory / f"flux--{old}--{new}.sql").write_text(text)
    return directory


def copy_into_share(binaries: Binaries, body: Body | None = None) -> Path:
    """Put the extension where a server before 18 looks for it.

    Raises:
        SchemaError: The share directory is not writable.
    """
    pg_config = subprocess.run(
        [binaries.tool("pg_config"), "--sharedir"], capture_output=True, text=True, check=True
    )
    directory = Path(pg_config.stdout.strip()) / "extension"
    try:
        return write(directory, body)
    except OSError as error:
        raise SchemaError(
            f"cannot write the extension into {directory}: {error.strerror}",
            "Run this as the owner of that directory, or install the schema as plain SQL.",
        ) from error


def install_extension(conn: psycopg.Connection, directory: Path | None = None) -> InstallResult:
    """Run `create extension flux`, or `alter extension flux update`.

    Args:
        conn: An idle connection of a superuser.
        directory: Parent of an `extension` directory written by `write`, readable by the server
            (Postgres 18 on); None if the files lie in the server's share directory.

    Raises:
        SchemaError: The schema is there as plain SQL, or the server cannot find the files.
    """
    with conn.transaction():
        present = lock_and_read_version(conn)
        if present is not None and present.installed_as == "plain":
            raise SchemaError(
                "schema flux is installed as plain SQL in this database",
                "Keep it so: both ways give the same. An extension cannot take it over.",
            )
        if directory is not None:
            conn.execute(
                "select set_config('extension_control_path', %s, true)", (f"{directory}:$system",)
            )
        try:
            conn.execute("alter extension flux update" if present else "create extension flux")
        except psycopg.errors.Error as error:
            raise SchemaError(
                f"the extension cannot be created: {error.diag.message_primary or error}",
                "It needs a superuser and the extension's files on the server.",
            ) from error
        grant_backup(conn)
        done = lock_and_read_version(conn)
    assert done is not None
    action = "installed" if present is None else "current" if present == done else "upgraded"
    return InstallResult(action, done.version, "extension")


def _unless_restoring(file: SqlFile) -> str:
    return _titled(
        file.name,
        "do $flux_file$\nbegin\n"
        "    if not exists (\n"
        "        select from pg_catalog.pg_settings as s\n"
        "        where s.name = 'xmloption' and s.source = 'session'\n"
        "    ) then\n"
        f"        execute $flux_text$\n{file.text.rstrip()}\n$flux_text$;\n"
        "    end if;\nend\n$flux_file$;",
    )


def _titled(name: str, text: str) -> str:
    return f"-- {name}\n{text.rstrip()}\n"
