"""What each caller sees and may do, through HTTP, by Postgres's own policies and grants."""

from __future__ import annotations

from pathlib import Path

from tests.auth.desk import ANA, BEN, make_token, open_desk
from tests.conftest import Database


async def test_users_see_and_write_their_own_rows_only(tmp_path: Path, database: Database) -> None:
    async with open_desk(tmp_path, database) as desk:
        ana, ben = make_token(ANA), make_token(BEN)
        made = await desk.post("/note", ana, body="from ana")
        assert made.status_code == 200, made.text
        assert made.json()[0]["owner"] == ANA
        await desk.post("/note", ben, body="from ben")

        assert (await desk.get("/notes", ana)).json() == [{"owner": ANA, "body": "from ana"}]
        assert (await desk.get("/notes", ben)).json() == [{"owner": BEN, "body": "from ben"}]
        service = make_token(role="service")
        assert len((await desk.get("/all_notes", service)).json()) == 2


async def test_without_a_token_a_caller_is_anon(tmp_path: Path, database: Database) -> None:
    async with open_desk(tmp_path, database) as desk:
        assert (await desk.get("/board")).json() == [{"body": "welcome"}]
        me = await desk.get("/me")
        assert me.json() == {"role": "anon", "login": "anon", "claims": {"role": "anon"}}
        refused = await desk.get("/notes")
        assert refused.status_code == 500
        assert "permission denied for table notes" in desk.execution(refused)["error"]["message"]


async def test_the_record_says_who_asked_and_keeps_no_token(
    tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database) as desk:
        token = make_token(ANA, email="ana@example.com", api_key="k-123456789")
        answer = await desk.post("/note", token, body="hello")
        record = desk.execution(answer)
        assert record["principal"] == ANA
        spans = desk.spans(answer)
        gateway = next(span for span in spans if span["name"] == "gateway.authenticate")
        assert gateway["output"] == {"role": "authenticated"}
        told = next(span for span in spans if span["kind"] == "function")["attributes"]
        assert told["role"] == told["identity"]["role"] == "authenticated"
        assert told["identity"]["claims"]["email"] == "ana@example.com"
        assert told["identity"]["claims"]["api_key"].startswith("redacted:")
        assert token not in str(spans) + str(record)
        (row,) = desk.harness.mutations(answer.headers["x-request-id"])
        assert row["session_user"] == "authenticated"


async def test_a_function_of_the_service_sees_all_rows_and_still_knows_who_asks(
    tmp_path: Path, database: Database
) -> None:
    async with open_desk(tmp_path, database) as desk:
        for user in (ANA, BEN):
            await desk.post("/note", make_token(user), body="one")
        counted = await desk.get("/count_notes", make_token(ANA))
        assert counted.json() == {"n": 2, "sub": ANA}
