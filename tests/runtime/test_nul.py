"""NUL characters survive the record."""

from __future__ import annotations

import json
import random

from flux_pg.runtime.nul import hide_nul, show_nul
from flux_pg.runtime.values import to_exact_json, to_json


def test_what_is_hidden_can_be_shown_again_whatever_the_text_holds() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        text = "".join(rng.choices("\0\u2400\ufe0e\\u0a", k=rng.randrange(8)))
        document = to_json({text: [text]})
        assert "\\u0000" not in document.replace("\\\\", "")
        assert json.loads(show_nul(document)) == {text: [text]}
        if "\0" not in text and "\u2400\ufe0e" not in text:
            assert document.encode() == to_exact_json({text: [text]})


def test_escapes_of_a_text_that_was_written_by_others_stay() -> None:
    document = '{"a": "\\\\u0000", "b": "\\\\\\u0000", "c": "\\u2400"}'
    assert json.loads(show_nul(hide_nul(document))) == json.loads(document)
