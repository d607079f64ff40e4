"""Who asks: a bearer token (RFC 6750) checked, and the role and claims it stands for.

Laws: algorithms are pinned by the settings, whatever a token says of itself; a token that cannot be
believed is refused everywhere, also where none is needed; nothing of a token is told but its
claims, once it was checked. A failure says why, without a word of the token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import get_default_algorithms

from flux_pg.config import Settings
from flux_pg.errors import UsageError
from flux_pg.gateway.keys import KeySet, KeysUnavailable
from flux_pg.gateway.preparation import Refused
from flux_pg.records import FunctionSpec, HttpRequest, Identity

ANON, AUTHENTICATED, SERVICE = "anon", "authenticated", "service"

MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: a key of HS256 is at least as long as its hash."""


class Rules(NamedTuple):
    """What a token has to be.

    Attributes:
        roles: The roles that callers may have, beside the service.
        service_role: What the role claim says of the service.
    """

    algorithms: tuple[str, ...]
    issuer: str | None
    audience: tuple[str, ...]
    leeway_s: float
    role_claim: str
    service_role: str
    roles: frozenset[str]


class Authenticator:
    """Finds out who asks.

    Args:
        rules: What a token has to be.
        keys: The key of all tokens, or the set of public keys that each names one of.
    """

    def __init__(self, rules: Rules, keys: Any) -> None:
        self._rules = rules
        self._keys = keys

    async def prepare(self, request: HttpRequest) -> None:
        """Have the key that the request's token names, if it has to be fetched.

        Without it `identify` says so. Cancellation: it is not there.
        """
        if isinstance(self._keys, KeySet) and request.headers.get("authorization"):
            await self._keys.prepare(_key_id(request.headers["authorization"]))

    def identify(self, request: HttpRequest, function: FunctionSpec) -> Identity:
        """Who asks for a function.

        Raises:
            Refused: The token cannot be believed, or its bearer may not call the function.
        """
        token = _token(request)
        if token is None:
            if function.auth != "none":
                raise _unauthorized(
                    "auth.missing", "token-missing", f"{function.name} needs a token.",
                    "Send it as `authorization: Bearer TOKEN`.", error=None,
                )  # fmt: skip
            return Identity(role=ANON, claims={"role": ANON})
        claims = self._claims(token)
        identity = Identity(role=self._role(claims), claims=claims)
        _check_may_call(identity, function)
        return identity

    def _claims(self, token: str) -> dict[str, Any]:
        rules = self._rules
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(token),
                algorithms=list(rules.algorithms),
                issuer=rules.issuer,
                audience=list(rules.audience) or None,
                leeway=rules.leeway_s,
                options={"require": ["exp"], "verify_aud": bool(rules.audience)},
            )
            # What Postgres cannot keep as jsonb would fail in every policy.
            text = json.dumps(claims, allow_nan=False, ensure_ascii=False)
            if "\\u0000" in text:
                raise jwt.InvalidTokenError("a claim holds a NUL character")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise jwt.InvalidTokenError("a claim holds half a surrogate pair") from None
        except KeysUnavailable as error:
            raise Refused(
                503, "auth.keys", "keys-unavailable", str(error),
                "Try again; the log of the server says what is wrong.",
            ) from None  # fmt: skip
        except (jwt.PyJWTError, TypeError, ValueError, RecursionError) as error:
            raise _unauthorized(
                "auth.token", "token-refused", f"The token is not accepted: {_reason(error)}.",
                "Get a new one.", error="invalid_token",
            ) from None  # fmt: skip
        return claims

    def _key(self, token: str) -> Any:
        if not isinstance(self._keys, KeySet):
            return self._keys
        header = jwt.get_unverified_header(token)
        return self._keys.find(header.get("kid"))

    def _role(self, claims: Mapping[str, Any]) -> str:
        told = claims.get(self._rules.role_claim)
        if told is None:
            return AUTHENTICATED
        if told == self._rules.service_role:
            return SERVICE
        if isinstance(told, str) and told in self._rules.roles:
            return told
        shown = told if isinstance(told, str) and len(told) < 64 and told.isprintable() else "?"
        raise _forbidden(
            "auth.role",
            "unknown-role",
            f"There is no role {shown} for callers.",
            "The roles of callers are those of [auth.roles] in flux.toml.",
        )


def make_authenticator(settings: Settings, environment: Mapping[str, str]) -> Authenticator | None:
    """The project's; None if it has no [auth].

    Raises:
        UsageError: The secret or the key cannot be used.
    """
    if not settings.auth:
        return None
    rules = Rules(
        settings.auth_algorithms,
        settings.auth_issuer,
        settings.auth_audience,
        settings.auth_leeway_s,
        settings.auth_role_claim,
        settings.auth_service_role,
        frozenset(settings.auth_roles or {}),
    )
    if settings.auth_jwks_url:
        return Authenticator(rules, KeySet(settings.auth_jwks_url))
    if settings.auth_public_key:
        path = settings.project_dir / settings.auth_public_key
        return Authenticator(rules, _read_public_key(path, rules.algorithms))
    return Authenticator(rules, _read_secret(settings.auth_secret_variable or "", environment))


def _read_secret(variable: str, environment: Mapping[str, str]) -> bytes:
    secret = environment.get(variable, "").encode()
    if len(secret) < MIN_SECRET_BYTES:
        what = "is not set" if not secret else f"holds {len(secret)} bytes"
        raise UsageError(
            f"auth.secret_variable: {variable} {what}; a secret of tokens needs at least "
            f"{MIN_SECRET_BYTES} bytes",
            f"Set {variable} in the environment or in .env, such as to the output of "
            "`openssl rand -hex 32`.",
            code="bad-setting",
        )
    return secret


def _read_public_key(path: Path, algorithms: tuple[str, ...]) -> Any:
    hint = "It is the PEM file of the public key, which `openssl pkey -pubout` writes."
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"auth.public_key: cannot read {path}: {error.strerror}", hint, code="bad-setting"
        ) from None
    if b"PRIVATE KEY" in pem:
        raise UsageError(f"auth.public_key: {path} holds a private key", hint, code="bad-setting")
    known = get_default_algorithms()
    for algorithm in algorithms:
        try:
            return known[algorithm].prepare_key(pem)
        except (jwt.InvalidKeyError, TypeError, ValueError):
            continue
    raise UsageError(
        f"auth.public_key: {path} holds no public key for {', '.join(algorithms)}",
        hint,
        code="bad-setting",
    )


def _token(request: HttpRequest) -> str | None:
    """The bearer token of a request, None if it has none.

    Raises:
        Refused: It carries credentials of another kind, or several.
    """
    given = [value for name, value in request.header_list if name == "authorization"]
    if not given:
        return None
    scheme, _, token = given[0].strip().partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise _unauthorized(
            "auth.token", "token-refused", "The authorization header holds no bearer token.",
            "Send one header: `authorization: Bearer TOKEN`.", error="invalid_request",
        )  # fmt: skip
    return token.strip()


def _key_id(authorization: str) -> str | None:
    try:
        header = jwt.get_unverified_header(authorization.partition(" ")[2].strip())
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    found = header.get("kid")
    return found if isinstance(found, str) else None


def _check_may_call(identity: Identity, function: FunctionSpec) -> None:
    if function.auth == "service" and identity.role != SERVICE:
        raise _forbidden("auth.function", "forbidden", f"{function.name} is for the service only.",
                         f"The token's role is {identity.role}.")  # fmt: skip
    if function.auth == "user" and identity.role == ANON:
        raise _forbidden("auth.function", "forbidden", f"{function.name} is for users only.",
                         f"The token's role is {identity.role}.")  # fmt: skip


def _reason(error: Exception) -> str:
    if isinstance(error, jwt.ExpiredSignatureError):
        return "it has expired"
    told = str(error).strip().rstrip(".") if isinstance(error, jwt.PyJWTError) else ""
    # Some messages of the library quote what they read; only words of its own are passed on.
    known = told.isascii() and told.isprintable() and len(told) < 100
    return told[:1].lower() + told[1:] if told and known else "it cannot be read"


def _unauthorized(rule: str, code: str, message: str, hint: str, *, error: str | None) -> Refused:
    challenge = 'Bearer realm="flux"' + (f', error="{error}"' if error else "")
    return Refused(401, rule, code, message, hint, headers=[("www-authenticate", challenge)])


def _forbidden(rule: str, code: str, message: str, hint: str) -> Refused:
    challenge = 'Bearer realm="flux", error="insufficient_scope"'
    return Refused(403, rule, code, message, hint, headers=[("www-authenticate", challenge)])
