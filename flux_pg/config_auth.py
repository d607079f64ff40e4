"""The settings of [auth]: how callers are told apart, and which logins they have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flux_pg.errors import UsageError

_SOURCES = ("auth_secret_variable", "auth_public_key", "auth_jwks_url")


def read_variable(value: Any) -> str:
    """Read the name of an environment variable."""
    if not re.fullmatch(r"[A-Za-z_]\w*", str(value)):
        raise ValueError("must be the name of an environment variable, never the secret itself")
    return str(value)


def read_web_address(value: Any) -> str:
    """Read the address of a document."""
    if not re.match(r"https?://[^/\s]+", str(value)):
        raise ValueError('must be an address such as "https://example.com/.well-known/jwks.json"')
    return str(value)


ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
              "ES256", "ES384", "ES512", "EdDSA")  # fmt: skip


def read_algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    """Read algorithms of signatures; `none` is none of them."""
    if not names or not set(names) <= set(ALGORITHMS):
        raise ValueError(f"must be a list of {', '.join(ALGORITHMS)}")
    if len({name.startswith("HS") for name in names}) > 1:
        raise ValueError("must not mix HS algorithms, of a secret, with those of public keys")
    return names


ROLES = {"anon": "anon", "authenticated": "authenticated"}
"""Callers without a token, and with one that names no role: what their logins are called."""


def read_roles(value: Any) -> Mapping[str, str]:
    """Read the logins of roles; of a role that is not named it is the role's own name."""
    if isinstance(value, str):  # FLUX_AUTH_ROLES=anon=web_anon,authenticated=web_user
        value = dict(part.split("=", 1) for part in value.split(",") if "=" in part)
    if not isinstance(value, Mapping) or not all(
        re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", str(role)) and isinstance(login, str) and login
        for role, login in value.items()
    ):
        raise ValueError('must be roles with their logins such as anon = "web_anon"')
    if any(login.startswith(("flux_", "pg_", "postgres")) for login in value.values()):
        raise ValueError("must not give callers a login of Flux or of Postgres itself")
    return {**ROLES, **value}


def check_auth(values: dict[str, Any], origins: Mapping[str, str]) -> bool:
    """Callers are told apart: [auth] must be complete. What follows from it is put into `values`.

    Args:
        values: The settings that were given.
        origins: Where each came from.

    Raises:
        UsageError: How tokens are checked is not said, or in two ways that exclude each other.
    """
    given = [name for name in values if name.startswith("auth_")]
    sources = [name for name in given if name in _SOURCES]
    place = origins[(sources or given)[-1]] if given else "flux.toml"
    if len(sources) != 1:
        raise UsageError(
            f"{place}: [auth] needs one of secret_variable, public_key and jwks_url"
            + (", not several" if sources else ""),
            'Say how tokens are checked, such as secret_variable = "JWT_SECRET".',
            code="bad-setting",
        )
    secret = sources == ["auth_secret_variable"]
    algorithms = values.setdefault("auth_algorithms", ("HS256",) if secret else ("RS256", "ES256"))
    if algorithms[0].startswith("HS") != secret:
        # Else whoever knows the public key could sign with it as if it were a secret.
        raise UsageError(
            f"{origins['auth_algorithms']}: auth.algorithms {', '.join(algorithms)} do not "
            f"go with auth.{sources[0].removeprefix('auth_')}",
            "HS256 is for a secret; RS256, ES256 and their like are for public keys.",
            code="bad-setting",
        )
    roles = values.setdefault("auth_roles", ROLES)
    if {"service", values.get("auth_service_role", "service")} & roles.keys():
        raise UsageError(
            f"{place}: auth.roles gives the service a login",
            "The service uses the login of DATABASE_URL; leave it out of auth.roles.",
            code="bad-setting",
        )
    return True


def url_variable(role: str) -> str:
    """The environment variable with the connection string of a role of callers."""
    return f"{role.upper().replace('-', '_')}_DATABASE_URL"


def caller_url(database_url: str, role: str, login: str, environment: Mapping[str, str]) -> str:
    """Connection string of a caller's role: `ANON_DATABASE_URL` for `anon`; without one, that of
    the runtime with the role's login and no password."""
    given = environment.get(url_variable(role))
    if given:
        return given
    parameters: dict[str, Any] = conninfo_to_dict(database_url)
    parameters.pop("password", None)
    return make_conninfo(**{**parameters, "user": login})
