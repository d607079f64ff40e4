"""Law 6: whatever way a secret goes through a function, it is not in what is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import Database

from .application import Harness, open_project

SECRET = "hunter2pw"

FUNCTIONS = """
import dataclasses
import os
from psycopg.types.json import Jsonb

@dataclasses.dataclass
class User:
    name: str
    password: str

@define_function
async def returned_object(ctx: Context):
    return User("bob", "hunter2pw")

@define_function
async def takes(ctx: Context, user):
    return None

@define_function
async def called_with_an_object(ctx: Context):
    await ctx.call("takes", {"user": User("bob", "hunter2pw")})

@define_function
async def failing_row(ctx: Context):
    await ctx.db.execute("update accounts set n = -1")

@define_function
async def duplicate_key(ctx: Context):
    await ctx.db.execute("insert into keys (api_key) select password from accounts")
    await ctx.db.execute("insert into keys (api_key) select password from accounts")

@define_function
async def renamed_column(ctx: Context):
    await ctx.db.query("select password as p, upper(password), n from accounts")
    await ctx.db.query("with x as (select password as q from accounts) select q from x")
    await ctx.db.query("update accounts set n = 2 returning lower(password) as r")

@define_function
async def inside_json(ctx: Context):
    await ctx.db.query("select data, to_jsonb(a) from accounts as a")

@define_function
async def json_parameter(ctx: Context):
    await ctx.db.execute("update accounts set data = %s", [Jsonb({"password": "hunter2pw"})])
    await ctx.db.query("select 1 from accounts where data->>'password' = %s", ["hunter2pw"])

@define_function
async def json_text(ctx: Context):
    text = '{"deep": [{"password": "hunter2pw"}]}'
    await ctx.db.execute("update accounts set data = %s", [text])
    await ctx.db.execute("update accounts set data = %(data)s", dict(data=text))
    await ctx.db.execute(f"update accounts set data = '{text}' where n < 9")
    await ctx.db.query("select array[data], row(id, data) from accounts")

@define_function
async def literal(ctx: Context):
    await ctx.db.execute("update accounts set password = 'hunter2pw' where n::text <> 'active'")
    await ctx.db.execute("insert into accounts values (3, 'hunter2pw', null, 1)")

@define_function
async def without_columns(ctx: Context):
    await ctx.db.execute("insert into accounts values (%s, %s, %s, %s)", [2, "hunter2pw", None, 1])

@define_function
async def refused_with_it(ctx: Context, password: str):
    raise HttpError(400, f"bad password {password}", details=[password])

@define_function
async def from_the_environment(ctx: Context):
    token = os.environ["MY_API_TOKEN"]
    ctx.log.info(f"using {token}", detail=f"t={token}")
    raise ValueError(f"bad token {token}")

@define_function
async def span_attributes(ctx: Context):
    with ctx.span("charge", api_key="hunter2pw"):
        pass

@define_function
async def quoted_by_a_service(ctx: Context, password: str, url: str):
    for kind in ("json", "text", "bytes", "header"):
        answer = await ctx.http.post(f"{url}/bot{password}/{kind}", json={"password": password})
    return answer.status_code

@define_function
async def said_again(ctx: Context, password: str):
    ctx.log.info("x", detail=[f"pw={password}"])
    await ctx.db.query(f"select 1 where '{password}' <> ''")
    return {"echo": f"it was {password}"}
"""

SCHEMA = """
create table accounts (id int primary key, password text, data jsonb, n int check (n >= 0));
create table plain_rows (id int primary key, n int check (n >= 0));
create table keys (api_key text unique);
"""

ROWS = """
insert into accounts values
    (1, 'hunter2pw', '{"password": "hunter2pw", "deep": [{"api_key": "hunter2pw"}], "n": 1.50}', 1);
"""

NAMES = [line.split()[2].split("(")[0] for line in FUNCTIONS.splitlines() if "async def" in line]


@pytest.fixture
async def flux(tmp_path: Path, database: Database):  # type: ignore[no-untyped-def]
    os.environ["MY_API_TOKEN"] = SECRET
    try:
        async with open_project(tmp_path, database, FUNCTIONS, SCHEMA + ROWS) as harness:
            yield harness
    finally:
        del os.environ["MY_API_TOKEN"]


class Quoting(BaseHTTPRequestHandler):
    """Answers with the secret, in the form that the path asks for."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        kind = self.path.rpartition("/")[2]
        quoted = f"it was {SECRET}"
        body, headers = {
            "json": (f'{{"said": ["{quoted}"]}}'.encode(), {"content-type": "application/json"}),
            "text": (quoted.encode(), {"content-type": "text/plain"}),
            "bytes": (b"\xff\xfe" + quoted.encode(), {}),
            "header": (b"", {"x-said": quoted}),
        }[kind]
        self.send_response(200)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Quoting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def written(flux: Harness) -> str:
    """Every execution and span as text."""
    rows = flux.rows(
        "select e::text as line from flux.execution_log as e"
        " union all select s::text from flux.span_packs as s"
    )
    return "\n".join(row["line"] for row in rows)


@pytest.mark.parametrize("function", [name for name in NAMES if name != "takes"])
async def test_no_secret_is_written(flux: Harness, service: str, function: str) -> None:
    (spec,) = [spec for spec in flux.application.functions if spec.name == function]
    given = {"password": SECRET, "url": service}
    taken = [parameter.name for parameter in spec.parameters]
    await flux.call(function, **{name: given[name] for name in taken})
    text = written(flux)
    assert SECRET.lower() not in text.lower()
    assert "redacted" in text


async def test_what_is_not_secret_stays_as_it_was(flux: Harness) -> None:
    await flux.call("renamed_column")
    first = next(s for s in flux.spans() if s["kind"] == "db")
    assert first["output"]["rows"][0][2] == "1"
    await flux.call("literal")
    first = next(s for s in flux.spans() if s["kind"] == "db")
    assert "'active'" in first["input"]["sql"]
    await flux.call("inside_json")
    (data, _) = next(s for s in flux.spans() if s["kind"] == "db")["output"]["rows"][0]
    assert '"n":1.50' in data.replace(" ", "")
