"""Randomness and identifiers: `random`, `os.urandom`, `os.getrandom`, `secrets`, `uuid`.

Recorded where it enters, not where it is used: every function of `random` is computed from
`random()` and `getrandbits()`, so those two of the shared generator are recorded and the rest
stays the original code, whatever it is given. `secrets` and `SystemRandom` draw from
`os.urandom`. A generator made without a seed records the seed it drew; a seeded one is
deterministic and records nothing.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable
from typing import Any

from .callers import call_counts
from .log import current_log
from .patching import Patches, ShimModule, bind, disguise

_SEED_BYTES = 32
_FIXED_GENERATORS = ("getstate",)
_UUID_MAKERS = ("uuid1", "uuid4", "uuid6", "uuid7", "uuid8", "getnode")


def install_randomness(patches: Patches) -> None:
    """Replace the sources of randomness."""
    _install_system(patches)
    _install_seed(patches)
    _install_shared_generator(patches)
    _install_uuids(patches)


def _install_system(patches: Patches) -> None:
    owner = ShimModule("os")
    original: Callable[[int], bytes] = os.urandom

    def urandom(self: object, size: int, /) -> bytes:
        log = current_log.get()
        if log is None or not call_counts():
            return original(size)
        return log.observe("random", f"os.urandom({size})", lambda: original(size))

    bound = bind(urandom, original, owner)
    patches.set(os, "urandom", bound)
    # SystemRandom, and with it `secrets`, bound the original when `random` was imported.
    patches.set(random, "_urandom", bound)
    if hasattr(os, "getrandom"):
        _install_getrandom(patches, owner, os.getrandom)


def _install_getrandom(patches: Patches, owner: ShimModule, original: Callable[..., bytes]) -> None:
    def getrandom(self: object, size: int, flags: int = 0) -> bytes:
        log = current_log.get()
        if log is None or not call_counts():
            return original(size, flags)
        label = f"os.getrandom({size}, {flags})"
        return log.observe("random", label, lambda: original(size, flags))

    patches.set(os, "getrandom", bind(getrandom, original, owner))


def _install_seed(patches: Patches) -> None:
    original = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        log = current_log.get()
        if a is not None or log is None or not call_counts():
            original(self, a, version)
            return
        # The original fills the state from the system too; 256 bits of it are as good and short.
        drawn = log.observe("random", "random.seed", lambda: os.urandom(_SEED_BYTES))
        original(self, int.from_bytes(drawn, "big"), version)

    patches.set(random.Random, "seed", disguise(seed, original))


def _make_shared_class() -> type[random.Random]:
    """The class of the generator behind `random.random` and friends."""
    plain = random.Random
    plain_random, plain_bits = plain.random, plain.getrandbits
    plain_gauss, plain_getstate = plain.gauss, plain.getstate

    class SharedRandom(plain):  # type: ignore[misc, valid-type]
        def random(self) -> float:
            log = current_log.get()
            if log is None or not call_counts():
                return plain_random(self)
            return log.observe("random", "random.random", lambda: plain_random(self))

        def getrandbits(self, k: int, /) -> int:
            log = current_log.get()
            if log is None or not call_counts():
                return plain_bits(self, k)
            return log.observe("random", f"random.getrandbits({k})", lambda: plain_bits(self, k))

        def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
            # It keeps every second value for the next call, which may be another request's: the
            # draw itself is recorded, and scaled as the original scales it.
            log = current_log.get()
            if log is None or not call_counts():
                return plain_gauss(self, mu, sigma)
            z = log.observe("random", "random.gauss", lambda: _draw_gauss(self))
            return mu + z * sigma

        def getstate(self) -> Any:
            log = current_log.get()
            if log is None or not call_counts():
                return plain_getstate(self)
            return log.observe("random", "random.getstate", lambda: plain_getstate(self))

        def __reduce__(self) -> Any:
            return plain, (), plain_getstate(self)

    def _draw_gauss(generator: random.Random) -> float:
        token = current_log.set(None)
        try:
            return plain_gauss(generator)
        finally:
            current_log.reset(token)

    SharedRandom.__name__ = SharedRandom.__qualname__ = "Random"
    SharedRandom.__module__ = "random"
    return SharedRandom


def _install_shared_generator(patches: Patches) -> None:
    """The instance keeps its identity and state, so code that bound its methods shares them."""
    shared: random.Random = vars(random)["_inst"]
    names = [
        name
        for name, value in vars(random).items()
        if getattr(value, "__self__", None) is shared and hasattr(shared, name)
    ]
    patches.set_class(shared, _make_shared_class())
    for name in names:
        patches.set(random, name, getattr(shared, name))


def _install_uuids(patches: Patches) -> None:
    owner = ShimModule("uuid")
    for name in _UUID_MAKERS:
        if hasattr(uuid, name):
            patches.set(uuid, name, _uuid_maker(owner, getattr(uuid, name)))


def _uuid_maker(owner: ShimModule, original: Callable[..., Any]) -> Callable[..., Any]:
    label = f"uuid.{original.__name__}"

    def shim(self: object, *args: Any, **kwargs: Any) -> Any:
        log = current_log.get()
        if log is None or not call_counts():
            return original(*args, **kwargs)
        return log.observe("uuid", label, lambda: original(*args, **kwargs))

    return bind(shim, original, owner)
