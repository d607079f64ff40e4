"""Tokens that cannot be believed, and callers who may not: how each is refused and recorded."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import httpx
import jwt
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flux_pg.config import Settings
from flux_pg.config_auth import ROLES
from flux_pg.errors import UsageError
from flux_pg.gateway import keys
from flux_pg.gateway.authentication import Authenticator, make_authenticator
from flux_pg.gateway.preparation import Refused
from flux_pg.records import FunctionSpec, HttpRequest, Identity
from tests.auth.desk import ANA, ENVIRONMENT, SECRET, Desk, bearer, make_token, open_desk
from tests.conftest import Database

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def _pem(key: Any) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _unsigned(claims: dict[str, Any]) -> str:
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return b".".join(encoded).decode() + "."


def _changed(token: str) -> str:
    """The token with another payload under the same signature."""
    head, _, signature = token.split(".")
    payload = json.dumps({"sub": "ben", "exp": int(time()) + 300}).encode()
    return f"{head}.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.{signature}"


def _settings(folder: Path, **auth: Any) -> Settings:
    given = {"auth_secret_variable": "JWT_SECRET", "auth_algorithms": ("HS256",), **auth}
    return Settings(
        project_dir=folder, state_dir=folder / ".flux", auth=True, auth_roles=ROLES, **given
    )


def _open(folder: Path, **auth: Any) -> Authenticator:
    made = make_authenticator(_settings(folder, **auth), ENVIRONMENT)
    assert made is not None
    return made


def _request(*authorization: str) -> HttpRequest:
    headers = tuple(("authorization", value) for value in authorization)
    return HttpRequest(
        method="GET", target="/", path="/", query_string="", headers=dict(headers),
        header_list=headers, body=b"", client="", received_ns=0,
    )  # fmt: skip


def _function(auth: Any = "none") -> FunctionSpec:
    return FunctionSpec(name="f", handler=print, path="/f", auth=auth)


def _identify(authenticator: Authenticator, token: str, auth: str = "none") -> Identity:
    return authenticator.identify(_request(f"Bearer {token}"), _function(auth))


def _numbered() -> str:
    head, _, _ = make_token(ANA).split(".")
    payload = {"sub": 7, "exp": int(time()) + 300, "aud": "flux", "iss": "tests"}
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    key = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signed = key.sign(f"{head}.{encoded}".encode(), SECRET.encode())
    return f"{head}.{encoded}." + base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


BAD = {
    "expired": lambda: make_token(ANA, exp=int(time()) - 60),
    "not valid yet": lambda: make_token(ANA, nbf=int(time()) + 60),
    "issued in the future": lambda: make_token(ANA, iat=int(time()) + 600),
    "without an end": lambda: make_token(ANA, exp=None),
    "of another key": lambda: make_token(ANA, key="another secret, that is long enough too"),
    "unsigned": lambda: _unsigned({"sub": ANA, "exp": int(time()) + 300}),
    "of another algorithm": lambda: make_token(ANA, algorithm="HS512", key=SECRET * 2),
    "changed": lambda: _changed(make_token(ANA)),
    "cut": lambda: make_token(ANA)[:-4],
    "no token": lambda: "rubbish",
    "two parts": lambda: "a.b",
    "not base64": lambda: "ä.ö.ü",
    "of another audience": lambda: make_token(ANA, aud="another"),
    "of another issuer": lambda: make_token(ANA, aud="flux", iss="another"),
    "of no issuer": lambda: make_token(ANA, aud="flux"),
    "with a NUL": lambda: make_token("a\0b", aud="flux", iss="tests"),
    "with half a character": lambda: make_token("\ud800", aud="flux", iss="tests"),
    "with half a character in a name": lambda: make_token(
        "ana", aud="flux", iss="tests", **{"\ud800": 1}
    ),
    "with a sub that is no text": _numbered,
    "with a claim that is no JSON": lambda: make_token(
        ANA, aud="flux", iss="tests", n=float("nan")
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_token_is_refused_also_where_none_is_needed(kind: str, tmp_path: Path) -> None:
    authenticator = _open(tmp_path, auth_issuer="tests", auth_audience=("flux", "more"))
    token = BAD[kind]()
    for auth in ("none", "user", "service"):
        with pytest.raises(Refused) as refused:
            _identify(authenticator, token, auth)
        assert (refused.value.status_code, refused.value.rule) == (401, "auth.token")
        assert token not in refused.value.message
        assert ("www-authenticate", 'Bearer realm="flux", error="invalid_token"') in (
            refused.value.headers
        )
    good = make_token(ANA, iss="tests", aud="flux")
    assert _identify(authenticator, good, "user").claims["sub"] == ANA


@pytest.mark.parametrize("headers", [["Basic YTpi"], ["Bearer"], ["Bearer "], ["", ""], ["x", "y"]])
def test_other_credentials_are_refused(headers: list[str], tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        _open(tmp_path).identify(_request(*headers), _function())
    assert refused.value.status_code == 401


def test_two_tokens_are_refused(tmp_path: Path) -> None:
    both = [f"Bearer {make_token(sub)}" for sub in (ANA, "ben")]
    with pytest.raises(Refused):
        _open(tmp_path).identify(_request(*both), _function())


def test_roles_of_tokens_and_who_may_call(tmp_path: Path) -> None:
    roles = {**ROLES, "editor": "web_editor"}
    authenticator = make_authenticator(
        Settings(
            project_dir=tmp_path, state_dir=tmp_path, auth=True, auth_roles=roles,
            auth_secret_variable="JWT_SECRET", auth_algorithms=("HS256",),
            auth_role_claim="app_role", auth_service_role="service_role",
        ),
        ENVIRONMENT,
    )  # fmt: skip
    assert authenticator is not None
    may = {
        None: ("authenticated", {"none", "user"}),
        "editor": ("editor", {"none", "user"}),
        "anon": ("anon", {"none"}),
        "service_role": ("service", {"none", "user", "service"}),
    }
    for told, (role, allowed) in may.items():
        token = make_token(ANA, app_role=told, role="service")
        for auth in ("none", "user", "service"):
            if auth in allowed:
                assert _identify(authenticator, token, auth).role == role
            else:
                with pytest.raises(Refused) as refused:
                    _identify(authenticator, token, auth)
                assert (refused.value.status_code, refused.value.rule) == (403, "auth.function")
    for told in ("service", "flux_app", "postgres", "", 7, ["anon"], {"anon": 1}):
        with pytest.raises(Refused) as refused:
            _identify(authenticator, make_token(ANA, app_role=told))
        assert (refused.value.status_code, refused.value.rule) == (403, "auth.role")


async def _refused(desk: Desk, path: str, token: str | None, status: int, rule: str) -> None:
    answer = (
        await desk.post(path, token, body="x") if path == "/note" else await desk.get(path, token)
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["www-authenticate"].startswith('Bearer realm="flux"')
    with trio.fail_after(60):  # refusals are written in batches
        while not (found := desk.harness.rows(
            "select refused_by, principal from flux.executions where request_id = %s",
            answer.headers["x-request-id"],
        )):  # fmt: skip
            await trio.sleep(0.05)
    assert found[0]["refused_by"] == rule
    (span,) = [s for s in desk.spans(answer) if s["name"] == "gateway.authenticate"]
    assert span["status"] == "error"


async def test_refusals_are_answered_and_recorded(tmp_path: Path, database18: Database) -> None:
    async with open_desk(tmp_path, database18) as desk:
        await _refused(desk, "/note", None, 401, "auth.missing")
        await _refused(desk, "/note", make_token(role="anon"), 403, "auth.function")
        await _refused(desk, "/all_notes", make_token(ANA), 403, "auth.function")
        await _refused(desk, "/board", make_token(ANA, exp=1), 401, "auth.token")
        await _refused(desk, "/board", make_token(ANA, role="boss"), 403, "auth.role")
        basic = await desk.ask("GET", "/board", None, authorization="Basic YTpi")
        assert basic.status_code == 401


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("ES256", EC_KEY)])
def test_public_key_file(algorithm: str, key: Any, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(_pem(key))
    authenticator = _open(
        tmp_path, auth_secret_variable=None, auth_public_key="key.pem",
        auth_algorithms=("RS256", "ES256"),
    )  # fmt: skip
    token = make_token(ANA, key=key, algorithm=algorithm)
    assert _identify(authenticator, token).claims["sub"] == ANA
    with pytest.raises(Refused):
        _identify(authenticator, make_token(ANA, key=OTHER_RSA_KEY, algorithm="RS256"))
    # The public key taken for a secret: the oldest trick against such tokens.
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    payload = token.split(".")[1]
    hs256 = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(hs256.sign(f"{head}.{payload}".encode(), _pem(key)))
    with pytest.raises(Refused):
        _identify(authenticator, f"{head}.{payload}.{signature.rstrip(b'=').decode()}")


@pytest.mark.parametrize(
    ("auth", "contents", "told"),
    [
        ({"auth_secret_variable": "MISSING"}, None, "MISSING is not set"),
        ({"auth_secret_variable": "SHORT"}, None, "SHORT holds 5 bytes"),
        ({"auth_public_key": "key.pem"}, None, "cannot read"),
        ({"auth_public_key": "key.pem"}, b"rubbish", "holds no public key for RS256"),
        ({"auth_public_key": "key.pem"}, b"-----BEGIN PRIVATE KEY-----", "holds a private key"),
        ({"auth_public_key": "key.pem"}, _pem(EC_KEY), "holds no public key for RS256"),
    ],
)
def test_keys_that_cannot_be_used_are_named(
    auth: dict[str, str], contents: bytes | None, told: str, tmp_path: Path
) -> None:
    if contents is not None:
        (tmp_path / "key.pem").write_bytes(contents)
    public = "auth_public_key" in auth
    settings = _settings(
        tmp_path, **{"auth_algorithms": ("RS256",) if public else ("HS256",), **auth}
    )
    with pytest.raises(UsageError, match=told):
        make_authenticator(settings, {"SHORT": "short"})


class Issuer:
    """Whoever publishes keys: an HTTP server in this loop, whose answer a test sets."""

    def __init__(self) -> None:
        self.body = b"{}"
        self.asked = 0
        self.url = ""

    def publish(self, *named: tuple[str | None, Any]) -> None:
        published = []
        for kid, key in named:
            algorithm = jwt.algorithms.get_default_algorithms()[
                "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
            ]
            entry = algorithm.to_jwk(key.public_key(), as_dict=True)
            published.append({**entry, **({"kid": kid} if kid else {})})
        self.body = json.dumps({"keys": published}).encode()

    async def answer(self, stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        self.asked += 1
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
        await stream.send_all(head.encode() + self.body)


@asynccontextmanager
async def _open_issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    issuer.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/jwks.json"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, issuer.answer, listeners)
        yield issuer
        nursery.cancel_scope.cancel()


async def test_published_keys_are_fetched_when_needed_and_not_for_every_bad_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _open_issuer() as issuer:
        issuer.publish(("one", RSA_KEY))
        authenticator = _open(
            tmp_path, auth_secret_variable=None, auth_jwks_url=issuer.url,
            auth_algorithms=("RS256", "ES256"),
        )  # fmt: skip

        async def ask(key: Any, kid: str | None, algorithm: str = "RS256") -> Identity:
            headers = {"kid": kid} if kid else None
            token = make_token(ANA, key=key, algorithm=algorithm, headers=headers)
            request = _request(f"Bearer {token}")
            await authenticator.prepare(request)
            return authenticator.identify(request, _function())

        async with trio.open_nursery() as nursery:  # at once, and fetched once
            for _ in range(5):
                nursery.start_soon(ask, RSA_KEY, "one")
        assert issuer.asked == 1
        assert (await ask(RSA_KEY, None)).claims["sub"] == ANA, "there is only one it can be"
        for _ in range(3):
            with pytest.raises(Refused):
                await ask(OTHER_RSA_KEY, "made up")
        assert issuer.asked == 1
        with pytest.raises(Refused):
            await ask(OTHER_RSA_KEY, "one")
        issuer.publish(("two", EC_KEY))
        monkeypatch.setattr(keys, "MIN_PAUSE_S", 0.0)
        assert (await ask(EC_KEY, "two", "ES256")).claims["sub"] == ANA
        with pytest.raises(Refused):
            await ask(RSA_KEY, "one")


async def test_without_published_keys_the_answer_is_503(tmp_path: Path) -> None:
    async with _open_issuer() as issuer:
        for body in (b"no json", b"{}", b"[]", b'{"keys": 7}', b'{"keys": []}'):
            issuer.body = body
            authenticator = _open(
                tmp_path, auth_secret_variable=None, auth_jwks_url=issuer.url,
                auth_algorithms=("RS256",),
            )  # fmt: skip
            request = _request(f"Bearer {make_token(ANA, key=RSA_KEY, algorithm='RS256')}")
            await authenticator.prepare(request)
            with pytest.raises(Refused) as refused:
                authenticator.identify(request, _function())
            assert (refused.value.status_code, refused.value.rule) == (503, "auth.keys")


async def test_request_with_a_good_token_over_http(tmp_path: Path, database18: Database) -> None:
    async with open_desk(tmp_path, database18) as desk:
        answer = await desk.client.get("/me", headers=bearer(make_token(ANA, role="authenticated")))
        assert answer.json()["role"] == "authenticated"
        assert isinstance(answer, httpx.Response)
