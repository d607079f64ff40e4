"""The comparison lets through what is volatile, and nothing else."""

from __future__ import annotations

import pytest

from tests.docs.compare import Names, Unequal, check

A, B = "01a20348-0c97-754d-9805-e9c2fbaa7288", "01b3aaaa-1574-704a-a67a-ce868812a064"


def same(page: str, real: str, names: Names | None = None) -> bool:
    try:
        check(page.splitlines(), real.splitlines(), names or Names())
    except Unequal:
        return False
    return True


def test_times_bars_and_widths_may_differ() -> None:
    assert same("a ████▎   9.86 ms", "a    ▏  17 µs")
    assert same("at 2026-11-22T12:36:54.86…  6 s ago", "at 2027-01-02T01:02:03.1+00:00 12 s ago")
    assert same('at "2026-11-22T12:36:54.861132+00:0…  x', 'at "2026-11-22T12:36:54.86+00:00"  x')
    assert same('name "Stone…  …ers.py:9', 'name "Sto…  …tomers.py:12')
    assert same(" id | n\n----+---", " id |    n\n------+---")


def test_other_text_and_other_lines_may_not() -> None:
    assert not same("ok 3 ms", "error 3 ms")
    assert not same("1 change", "2 changes")
    assert not same("a", "a\nb")
    assert not same("a\nb", "a")
    assert not same("name Stone…", "name Stoneware")
    assert not same("took 3 ms", "took a while")


def test_dots_stand_for_any_lines() -> None:
    assert same("a\n...\nd", "a\nb\nc\nd")
    assert same("a\n...", "a\nb")
    assert same("...\nb", "a\nb")
    assert not same("a\n...\ne", "a\nb\nc\nd")
    assert not same("...\nc\n...\nb\n...", "a\nb\nc\nd")


def test_an_id_of_the_page_is_one_id_of_the_run() -> None:
    names = Names()
    assert same(f"id {A}", f"id {B}", names)
    assert same("flux why fbaa7288", "flux why 8812a064", names)
    assert not same("flux why fbaa7288", "flux why 12345678", names)
    assert not same("other 00000001", "other 8812a064", names)
    assert names.translate("flux trace fbaa7288") == "flux trace 8812a064"
    with pytest.raises(Unequal):
        names.translate("flux trace 0123abcd")
