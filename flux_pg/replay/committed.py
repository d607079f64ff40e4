"""Which commit holds the files that a deployment ran: who saves, tries and then commits has the
record name the commit before."""

from __future__ import annotations

import hashlib
from pathlib import PurePath

from flux_pg.replay.git import Repository
from flux_pg.runtime.deployment import hash_sources
from flux_pg.runtime.registry import FUNCTIONS_FOLDER

_MOST = 500


async def find_committed(repository: Repository, commit: str, source_hash: str) -> str | None:
    """The commit whose function files are those that ran; None if they never were committed.

    Args:
        commit: What was checked out then: itself, or else the first after it.
        source_hash: Of the files that ran (`deployment.Source`).
    """
    known: dict[str, bytes] = {}
    for one in [commit, *await repository.later(commit, FUNCTIONS_FOLDER, _MOST)]:
        blobs = await repository.blobs(one, FUNCTIONS_FOLDER)
        for blob in set(blobs.values()) - known.keys():
            known[blob] = hashlib.sha256(await repository.content(blob)).digest()
        if (
            hash_sources({PurePath(path): known[blob] for path, blob in blobs.items()})
            == source_hash
        ):
            return one
    return None
