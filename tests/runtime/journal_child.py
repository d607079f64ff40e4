"""A process that begins and ends requests until it is killed, and says so on stdout.

Each line is written before (`b`, `e`) or after (`B`, `E`) the call it names, so that whoever reads
the pipe knows for every request whether it was certainly begun or certainly ended.
"""

import json
import os
import random
import sys
from pathlib import Path

from flux_pg.runtime.journal import Journal, Slot


def entry_of(number: int, seed: int) -> bytes:
    """Make the entry of one request; the same arguments give the same bytes."""
    size = random.Random(seed * 1_000_003 + number).choice((0, 10, 300, 3000, 9000))
    return json.dumps({"request_id": number, "input": "x" * size}).encode()


def main() -> None:
    """Run until killed: argv is the journal's path and the seed."""
    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    journal = Journal.create(path, slots=16, slot_bytes=4096)
    running: list[tuple[int, Slot]] = []
    number = 0
    while True:
        # The number that run wanders up to more than the slots there are.
        if not running or (rng.random() < 0.55 and len(running) < 40):
            number += 1
            entry = entry_of(number, seed)
            os.write(1, b"b %d\n" % number)
            running.append((number, journal.begin(entry)))
            os.write(1, b"B %d\n" % number)
        else:
            ended, slot = running.pop(rng.randrange(len(running)))
            os.write(1, b"e %d\n" % ended)
            journal.end(slot)
            os.write(1, b"E %d\n" % ended)


if __name__ == "__main__":
    main()
