"""HTTP: from a listening socket to a validated `Invocation`, and from its reply to bytes."""

from __future__ import annotations

from flux_pg.gateway.bodies import UploadedFile as UploadedFile
from flux_pg.gateway.limits import Limits as Limits
from flux_pg.gateway.server import Server as Server
