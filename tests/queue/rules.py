"""Random cron rules for the tests."""

from __future__ import annotations

import random

_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES = {
    3: "jan feb mar apr may jun jul aug sep oct nov dec".split(),
    4: "SUN MON Tue wed thu fri sat".split(),
}


def random_rule(rng: random.Random) -> str:
    """Five valid fields; restricted ones in every form that the language has."""
    return " ".join(_random_field(rng, number) for number in range(5))


def _random_field(rng: random.Random, number: int) -> str:
    if rng.random() < (0.2, 0.25, 0.6, 0.7, 0.6)[number]:
        return "*"
    terms = [_random_term(rng, number) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return ",".join(terms)


def _random_term(rng: random.Random, number: int) -> str:
    low, high = _LIMITS[number]
    form = rng.randrange(6)
    if form == 0:
        return f"*/{rng.randint(1, high + 5)}"
    first = rng.randint(low, high)
    if form < 3:
        return str(first)
    if form == 3 and number in _NAMES:
        return rng.choice(_NAMES[number])
    # Not a range of one with a step: CronSim reads 5-5/2 like 5/2, cron does not.
    last = rng.randint(min(first + 1, high), high)
    if first == last:
        return str(first)
    return f"{first}-{last}" + (f"/{rng.randint(1, 9)}" if form == 5 else "")
