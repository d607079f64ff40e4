"""A loop that stands still is seen, one that was not watched is not blamed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flux_pg.runtime.blocked import parse_place
from flux_pg.runtime.heartbeat import Heartbeat, Pulse, Stillness, shared_page


def test_stillness_grows_until_the_count_moves() -> None:
    stillness = Stillness(longest_step_s=0.3)
    assert stillness.observe(1, 100.0) == 0
    assert stillness.observe(1, 100.1) == pytest.approx(0.1)
    assert stillness.observe(1, 100.3) == pytest.approx(0.3)
    assert stillness.observe(2, 100.4) == 0
    assert stillness.observe(2, 100.5) == pytest.approx(0.1)


def test_time_in_which_nobody_watched_counts_as_one_step() -> None:
    stillness = Stillness(longest_step_s=0.3)
    stillness.observe(1, 100.0)
    # The supervisor was stopped for an hour, and so was everybody else.
    assert stillness.observe(1, 3700.0) == pytest.approx(0.3)


def test_the_other_side_of_the_page_sees_each_beat() -> None:
    page = shared_page()
    heart, pulse = Heartbeat(page), Pulse(page)
    os.close(page)
    assert pulse.still_s(1.0) == 0
    assert pulse.still_s(1.1) == pytest.approx(0.1)
    heart.beat()
    assert pulse.still_s(1.2) == 0
    heart.close()
    pulse.close()


DUMP = """\
Thread 0x00007f01 (most recent call first):
  File "/shop/functions/other.py", line 3 in in_a_thread
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/socket.py", line 706 in readinto
  File "/shop/functions/orders.py", line 41 in fetch
  File "/shop/functions/orders.py", line 12 in create_order
  File "/venv/trio/_core/_run.py", line 2800 in unrolled_run
  File "/venv/trio/_core/_run.py", line 2400 in run
"""


@pytest.mark.parametrize(
    ("project", "place"),
    [
        ("/shop", "functions/orders.py:41 in fetch"),
        ("/elsewhere", "/usr/lib/python3.11/socket.py:706 in readinto"),
    ],
)
def test_the_blocking_place_is_the_users_innermost_line(project: str, place: str) -> None:
    assert parse_place(DUMP, Path(project)) == place


def test_an_answer_that_never_came_has_no_place() -> None:
    assert parse_place("", Path("/shop")) == ""


def test_a_recursion_that_hides_the_loop_is_still_found() -> None:
    deep = DUMP.replace("trio/_core/_run.py", "cut.py")
    assert parse_place(deep, Path("/shop")) == "functions/orders.py:41 in fetch"
