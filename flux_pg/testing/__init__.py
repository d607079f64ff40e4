"""What tests that were written by `flux test export` are made of.

    from flux_pg.testing import Recorded, given

    REQUEST = Recorded(function="place_order", input={...}, rows={...}, outside=[...])

    def test_place_order() -> None:
        run = REQUEST.run()
        assert run.outcome == "ok", run

The request runs through the real runtime on a database of its own, made from the project's
migrations and the rows of the test. No server has to run, and nothing leaves the machine.
"""

from __future__ import annotations

from flux_pg.testing.request import Call as Call
from flux_pg.testing.request import Change as Change
from flux_pg.testing.request import Diverged as Diverged
from flux_pg.testing.request import Job as Job
from flux_pg.testing.request import Recorded as Recorded
from flux_pg.testing.request import Run as Run
from flux_pg.testing.request import deleted as deleted
from flux_pg.testing.request import inserted as inserted
from flux_pg.testing.request import truncated as truncated
from flux_pg.testing.request import updated as updated
from flux_pg.testing.stubs import ANY as ANY
from flux_pg.testing.stubs import REDACTED as REDACTED
from flux_pg.testing.stubs import Answer as Answer
from flux_pg.testing.stubs import given as given
from flux_pg.testing.stubs import http as http
