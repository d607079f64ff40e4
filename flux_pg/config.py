"""One settings object, and where each of its values came from.

Law: flag over environment over `.env` over `flux.toml` over default, for every setting alike. A
value that cannot be used is refused here, with the file and line (or variable) that holds it, so
that nothing further in ever checks a setting again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from flux_pg.config_auth import (
    caller_url,
    check_auth,
    read_algorithms,
    read_roles,
    read_variable,
    read_web_address,
)
from flux_pg.config_files import TomlFile, read_dotenv
from flux_pg.errors import UsageError

PROJECT_FILE = "flux.toml"
STATE_DIRECTORY = ".flux"
MASK = "********"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    `source` is `flag`, `environment`, `.env`, `flux.toml` or `default`; `where` names the flag,
    variable or file:line, and is empty for a default.
    """

    source: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.source} ({self.where})" if self.where else self.source


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a command, a supervisor or a worker needs to know about its project.

    `database_url` None means the embedded server under `state_dir`. `admin_url` is the login for
    installing the schema and running migrations, `database_url` if not given. `listen_url` is a
    direct connection for LISTEN where `database_url` goes through a transaction pooler.
    """

    project_dir: Path
    state_dir: Path
    project_name: str = ""
    named_project: str = ""
    """The project's name if somebody gave it one: that of a folder may be another's, too."""
    database_url: str | None = None
    admin_url: str | None = None
    listen_url: str | None = None
    tracked_schemas: tuple[str, ...] = ("public",)
    pool_size: int = 8
    prepare_statements: str = "on"
    host: str = "127.0.0.1"
    port: int = 4000
    workers: int = 1
    max_body_bytes: int = 10 << 20
    max_header_bytes: int = 64 << 10
    request_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    max_rows: int | None = None
    max_cost: float | None = None
    jobs: str = "on"
    job_concurrency: int = 16
    queue_poll_s: float = 5.0
    lease_s: float = 30.0
    recording: str = "on"
    durability: str = "normal"
    record_value_limit_bytes: int = 1 << 20
    redact: tuple[str, ...] = ()
    retention_s: float | None = None
    log_format: str = "text"
    auth_secret_variable: str | None = None
    auth_public_key: str | None = None
    auth_jwks_url: str | None = None
    auth_algorithms: tuple[str, ...] = ()
    auth_issuer: str | None = None
    auth_audience: tuple[str, ...] = ()
    auth_leeway_s: float = 10.0
    auth_role_claim: str = "role"
    auth_service_role: str = "service"
    auth_roles: Mapping[str, str] | None = None
    auth: bool = False
    """Whether flux.toml has an [auth] table (or its variables are set): callers are told apart."""
    dev: bool = False
    dotenv: Mapping[str, str] = field(default_factory=dict)
    """Every variable of `.env`, for the functions' own environment."""
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False)

    def caller_urls(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The connection string of each role of callers; `environment` may name them."""
        if not self.auth or self.database_url is None:
            return {}
        roles = self.auth_roles or {}
        url = self.database_url
        return {role: caller_url(url, role, login, environment) for role, login in roles.items()}

    @property
    def caller_logins(self) -> tuple[str, ...]:
        """The logins of callers; none where they are not told apart."""
        return tuple((self.auth_roles or {}).values()) if self.auth else ()


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its names, its reader and what it is for."""

    name: str
    toml: str
    variable: str
    parse: Callable[[Any], Any]
    help: str
    secret: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value


def _number(value: Any, low: int, high: int) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,12}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"must be a whole number from {low} to {high}")
    return value


def _between(low: int, high: int) -> Callable[[Any], int]:
    return lambda value: _number(value, low, high)


_SIZES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_AGES = {"h": 3600.0, "d": 86400.0, "w": 604800.0}
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def _size(value: Any) -> int:
    """Read a size in bytes: a number, or a text such as `10MiB`."""
    matched = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", str(value).lower())
    if isinstance(value, bool) or not matched or matched[2] not in _SIZES:
        raise ValueError('must be a size in bytes such as 65536 or "10MiB"')
    return _number(int(matched[1]) * _SIZES[matched[2]], 1, 1 << 40)


def _seconds(value: Any) -> float:
    """Read a length of time in seconds: a number, or a text such as `30s` or `1.5m`."""
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
    if isinstance(value, bool) or not matched or matched[2] not in _SECONDS:
        raise ValueError('must be a time such as 30, "30s" or "5m"')
    seconds = float(matched[1]) * _SECONDS[matched[2]]
    if not 0 < seconds <= 86400:
        raise ValueError("must be longer than nothing and at most a day")
    return seconds


def _age(value: Any) -> float:
    """Read an age in seconds: a text such as `36h`, `30d` or `12w`; of a number nobody knows."""
    matched = re.fullmatch(r"\s*(\d{1,5})\s*([hdw])\s*", str(value).lower())
    if not matched or not int(matched[1]):
        raise ValueError('must be an age such as "36h", "30d" or "12w"')
    return int(matched[1]) * _AGES[matched[2]]


def _cost(value: Any) -> float:
    """Read a planner's cost: a number above nothing."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,15}(\.\d+)?", text) or not float(text):
        raise ValueError("must be a number above 0, in the units of Postgres's planner")
    return float(text)


def _choice(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError("must be " + " or ".join(f'"{name}"' for name in allowed))
        return str(value)

    return parse


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ValueError('must be a list of names such as ["public"]')
    return tuple(value)


def _leeway(value: Any) -> float:
    return 0.0 if str(value).strip() in ("0", "0s") else _seconds(value)


def _conninfo(value: Any) -> str:
    text = _text(value)
    if text.startswith(("postgres://", "postgresql://")) or re.search(r"\w+\s*=", text):
        return text
    raise ValueError('must be a connection string such as "postgresql://user@host/database"')


OPTIONS: tuple[Option, ...] = (
    Option("project_name", "project.name", "FLUX_PROJECT", _text, "name of the project"),
    Option("database_url", "database.url", "DATABASE_URL", _conninfo,
           "login of the runtime; none means the embedded Postgres", secret=True),
    Option("admin_url", "database.admin_url", "FLUX_ADMIN_URL", _conninfo,
           "login that installs the schema and runs migrations", secret=True),
    Option("listen_url", "database.listen_url", "FLUX_LISTEN_URL", _conninfo,
           "direct login for LISTEN behind a transaction pooler", secret=True),
    Option("tracked_schemas", "database.tracked_schemas", "FLUX_TRACKED_SCHEMAS", _names,
           "schemas whose new tables are tracked"),
    Option("pool_size", "database.pool_size", "FLUX_POOL_SIZE", _between(1, 1000),
           "connections of one worker"),
    Option("prepare_statements", "database.prepare_statements", "FLUX_PREPARE_STATEMENTS",
           _choice("on", "off"), "off behind a transaction pooler that does not know them"),
    Option("host", "server.host", "FLUX_HOST", _text, "address to listen on"),
    Option("port", "server.port", "FLUX_PORT", _between(0, 65535), "port to listen on"),
    Option("workers", "server.workers", "FLUX_WORKERS", _between(1, 256), "worker processes"),
    Option("max_body_bytes", "server.max_body", "FLUX_MAX_BODY", _size,
           "largest request body"),
    Option("max_header_bytes", "server.max_headers", "FLUX_MAX_HEADERS", _size,
           "largest request head"),
    Option("request_timeout_s", "server.request_timeout", "FLUX_REQUEST_TIMEOUT", _seconds,
           "time limit of a request whose function sets none"),
    Option("drain_timeout_s", "server.drain_timeout", "FLUX_DRAIN_TIMEOUT", _seconds,
           "time that running requests get when a worker ends"),
    Option("max_rows", "functions.max_rows", "FLUX_MAX_ROWS", _between(1, 1_000_000_000),
           "rows that one statement may return, unless its function says otherwise"),
    Option("max_cost", "functions.max_cost", "FLUX_MAX_COST", _cost,
           "what the plan of one statement may cost, unless its function says otherwise"),
    Option("jobs", "queue.jobs", "FLUX_JOBS", _choice("on", "off"),
           "whether workers run jobs and schedules"),
    Option("job_concurrency", "queue.concurrency", "FLUX_JOB_CONCURRENCY", _between(1, 1000),
           "jobs that run at once in one worker"),
    Option("queue_poll_s", "queue.poll", "FLUX_QUEUE_POLL", _seconds,
           "how often an idle node looks for jobs that nothing told it of"),
    Option("lease_s", "queue.lease", "FLUX_LEASE", _seconds,
           "how long a job is left to a worker that gives no sign of life"),
    Option("recording", "recording.mode", "FLUX_RECORDING", _choice("on", "off"),
           "off only to measure what recording costs: nothing is recorded then"),
    Option("durability", "recording.durability", "FLUX_DURABILITY", _choice("normal", "strict"),
           "whether a request without effects waits for the disk too"),
    Option("record_value_limit_bytes", "recording.value_limit", "FLUX_VALUE_LIMIT", _size,
           "largest value that a span keeps whole"),
    Option("redact", "recording.redact", "FLUX_REDACT", _names,
           "further names whose values are redacted"),
    Option("retention_s", "retention.executions", "FLUX_RETENTION", _age,
           "age at which records and finished jobs are dropped, a week at a time"),
    Option("log_format", "log.format", "FLUX_LOG_FORMAT", _choice("text", "json"),
           "form of the log lines; `flux serve` writes json unless it is set"),
    Option("auth_secret_variable", "auth.secret_variable", "FLUX_AUTH_SECRET_VARIABLE",
           read_variable, "environment variable that holds the secret of HS256 tokens"),
    Option("auth_public_key", "auth.public_key", "FLUX_AUTH_PUBLIC_KEY", _text,
           "PEM file with the public key of tokens, relative to the project"),
    Option("auth_jwks_url", "auth.jwks_url", "FLUX_AUTH_JWKS_URL", read_web_address,
           "address of the public keys of tokens (JWKS)"),
    Option("auth_algorithms", "auth.algorithms", "FLUX_AUTH_ALGORITHMS",
           lambda value: read_algorithms(_names(value)),
           "algorithms that tokens may be signed with: HS256 for a secret, else RS256 and ES256"),
    Option("auth_issuer", "auth.issuer", "FLUX_AUTH_ISSUER", _text,
           "what a token's `iss` has to be"),
    Option("auth_audience", "auth.audience", "FLUX_AUTH_AUDIENCE", _names,
           "one of these has to be in a token's `aud`"),
    Option("auth_leeway_s", "auth.leeway", "FLUX_AUTH_LEEWAY", _leeway,
           "how far the clock of whoever makes tokens may be off"),
    Option("auth_role_claim", "auth.role_claim", "FLUX_AUTH_ROLE_CLAIM", _text,
           "claim that says the caller's role; without it a token is of `authenticated`"),
    Option("auth_service_role", "auth.service_role", "FLUX_AUTH_SERVICE_ROLE", _text,
           "what that claim says of the service, which may do what the runtime may"),
    Option("auth_roles", "auth.roles", "FLUX_AUTH_ROLES", read_roles,
           "logins of Postgres for the roles of callers, `anon` and `authenticated` among them"),
)  # fmt: skip

# libpq's own variables count only if they say which server or database is meant: PGUSER or
# PGPASSWORD alone are often left over in a shell and must not turn the embedded server off.
_PG_TRIGGERS = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
_PG_KEYWORDS = {
    "PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGPORT": "port", "PGDATABASE": "dbname",
    "PGUSER": "user", "PGPASSWORD": "password", "PGSERVICE": "service", "PGSSLMODE": "sslmode",
    "PGPASSFILE": "passfile", "PGSSLROOTCERT": "sslrootcert", "PGOPTIONS": "options",
    "PGAPPNAME": "application_name", "PGCONNECT_TIMEOUT": "connect_timeout",
}  # fmt: skip


def find_project(start: Path) -> Path | None:
    """Return the nearest directory at or above `start` that holds a flux.toml, or None."""
    for directory in (start.resolve(), *start.resolve().parents):
        if (directory / PROJECT_FILE).is_file():
            return directory
    return None


def read_project_file(project_dir: Path) -> TomlFile:
    """Read flux.toml; a missing one counts as empty.

    Raises:
        UsageError: It is not TOML, or holds a setting that there is not.
    """
    known = {option.toml for option in OPTIONS}
    return TomlFile.read(project_dir / PROJECT_FILE, known, tables=("schedules",))


def load_settings(
    project_dir: Path,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings of the project in `project_dir`.

    Args:
        project_dir: The project's directory; a missing flux.toml or .env counts as empty.
        overrides: Values of flags by field name; None means that the flag was not given. `dev`
            and `state_dir` can only be given here.
        environ: The environment, `os.environ` by default.

    Raises:
        UsageError: a value that cannot be used, naming file and line or the variable.
    """
    project_dir = project_dir.resolve()
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (overrides or {}).items() if value is not None}
    unknown = flags.keys() - {entry.name for entry in fields(Settings)}
    if unknown:
        raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
    toml = read_project_file(project_dir)
    dotenv = read_dotenv(project_dir / ".env")
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for option in OPTIONS:
        found = _find(option, flags, environ, dotenv, toml)
        if found is None:
            origins[option.name] = Origin("default")
            continue
        raw, origins[option.name] = found
        values[option.name] = _parsed(option, raw, origins[option.name])
    if "database_url" not in values:
        _take_libpq_variables(values, origins, environ, dotenv)
    named_project = values.setdefault("project_name", "")
    values["project_name"] = named_project or project_dir.name
    if "auth" in toml.sections or any(name.startswith("auth_") for name in values):
        values["auth"] = check_auth(values, {name: str(at) for name, at in origins.items()})
    return Settings(
        project_dir=project_dir,
        named_project=named_project,
        state_dir=Path(flags.get("state_dir", project_dir / STATE_DIRECTORY)),
        dev=bool(flags.get("dev", False)),
        dotenv={name: value for name, (value, _) in dotenv.items()},
        origins=origins,
        **values,
    )


def _find(
    option: Option,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    dotenv: Mapping[str, tuple[str, str]],
    toml: TomlFile,
) -> tuple[Any, Origin] | None:
    if option.name in flags:
        flag = "--" + option.name.removesuffix("_s").removesuffix("_bytes").replace("_", "-")
        return flags[option.name], Origin("flag", flag)
    # An empty variable is the shell's way to say "not set".
    if environ.get(option.variable):
        return environ[option.variable], Origin("environment", option.variable)
    if option.variable in dotenv and dotenv[option.variable][0]:
        value, where = dotenv[option.variable]
        return value, Origin(".env", where)
    if option.toml in toml.values:
        return toml.values[option.toml], Origin(PROJECT_FILE, toml.where(option.toml))
    return None


def _parsed(option: Option, raw: Any, origin: Origin) -> Any:
    try:
        return option.parse(raw)
    except ValueError as error:
        shown = "" if option.secret else f", not {raw!r}"
        place = f"{origin.where}: " if origin.source in (".env", PROJECT_FILE) else ""
        name = option.toml if origin.source == PROJECT_FILE else origin.where
        if origin.source == ".env":
            name = option.variable
        raise UsageError(
            f"{place}{name} {error}{shown}", f"{name}: {option.help}.", code="bad-setting"
        ) from None


def _take_libpq_variables(
    values: dict[str, Any],
    origins: dict[str, Origin],
    environ: Mapping[str, str],
    dotenv: Mapping[str, tuple[str, str]],
) -> None:
    """Make `database_url` from the PG* variables, if they name a server or database."""
    for source, pairs in (
        ("environment", environ),
        (".env", {**{name: value for name, (value, _) in dotenv.items()}, **environ}),
    ):
        if not any(pairs.get(name) for name in _PG_TRIGGERS):
            continue
        given = [name for name in _PG_KEYWORDS if pairs.get(name)]
        values["database_url"] = " ".join(
            f"{_PG_KEYWORDS[name]}={_quoted(pairs[name])}" for name in given
        )
        origins["database_url"] = Origin(source, ", ".join(given))
        return


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def masked(value: str) -> str:
    """Return a connection string with its password hidden."""
    if "://" in value:
        parts = urlsplit(value)
        query = re.sub(r"(?i)(password=)[^&]*", rf"\g<1>{MASK}", parts.query)
        netloc = re.sub(r"^([^@/]*?):[^@]*@", rf"\g<1>:{MASK}@", parts.netloc)
        return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))
    return re.sub(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", rf"\g<1>{MASK}", value)


def describe(settings: Settings) -> list[tuple[Option, Any, Origin]]:
    """Return every setting with its value (secrets masked) and origin, in order."""
    rows = []
    for option in OPTIONS:
        value = getattr(settings, option.name)
        if option.secret and value:
            value = masked(value)
        rows.append((option, value, settings.origins.get(option.name, Origin("default"))))
    return rows
