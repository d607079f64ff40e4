"""The journal of running requests: what survives when their worker does not.

One memory-mapped file per worker, one fixed slot per running request. Laws:

1. `begin` returns only after the entry is whole in the mapping. The kernel keeps the page whatever
   happens to the process, so a request that ran has its entry, also after kill -9.
2. Neither `begin` nor `end` makes a system call; only a journal whose slots are all taken
   does, to grow.
3. A slot is published by storing one byte, after everything else in it, and freed the same way. A
   process that dies at any point leaves a slot that is free or whole, never half. Only a machine
   that loses power may leave a torn one, which its checksum shows.
4. No request runs unjournaled: a full journal grows, and an entry that is too large loses part of
   its input and says so.
5. The worker holds a lock on the file for as long as it lives. Whoever gets the lock owns what is
   left in the file, and removes the file only after the database has the leftovers.

The file belongs to one process and `begin` and `end` to one thread of it.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from flux_pg.errors import FluxError

SUFFIX = ".journal"
DRAFT_SUFFIX = ".draft"
DEFAULT_SLOTS = 1024
DEFAULT_SLOT_BYTES = 4096

Slot: TypeAlias = tuple[mmap.mmap, int]
"""A running request's place: the mapping, and where in it. Opaque to callers."""

_MAGIC = b"FLUXJNL1"
# Mappings must start at a multiple of the allocation granularity, 16 KiB at most where we run.
_HEADER_BYTES = 16384
_HEADER = struct.Struct("<8sIIQ")  # magic, slot bytes, process id, time of creation
_REASON_AT = 4096
_REASON = struct.Struct("<II")  # length, crc
_REASON_BYTES = 2048
_PLACE = "\x00"  # between the reason and the place

# State (one byte, stored apart), length, crc over deadline and entry, deadline; then the entry.
_SLOT = struct.Struct("<4xIIQ")
_FREE, _USED = 0, 1
_KEPT = frozenset(
    ("request_id", "trace_id", "root_span_id", "input", "input_truncated", "input_bytes")
)


class JournalError(FluxError):
    """The journal cannot be written: a full or read-only disk, mostly."""

    code = "journal"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One entry that was begun and not ended.

    `entry` is None if it is torn (only after the machine lost power). `deadline_ns` is the
    request's limit on `time.monotonic_ns`, 0 if it was not given; it means something only while
    the machine that wrote it is up.
    """

    entry: dict[str, Any] | None
    deadline_ns: int = 0

    @property
    def torn(self) -> bool:
        """Whether the entry cannot be read."""
        return self.entry is None


@dataclass(frozen=True, slots=True)
class JournalFile:
    """What a journal says about itself, read by someone who is not its writer."""

    pid: int
    created_ns: int
    reason: str
    """Why its worker died, as the supervisor noted it; empty if nobody did."""
    place: str = ""
    """The line that brought it to that, as `file:line in function`; empty if nobody knows."""
    leftovers: list[Leftover] = field(default_factory=list)


class Journal:
    """The journal of this worker process. Make one with `create`."""

    def __init__(self, path: Path, slot_bytes: int, segment_bytes: int, lock_fd: int) -> None:
        self.path = path
        self.slot_bytes = slot_bytes
        self._segment_bytes = segment_bytes
        self._lock_fd = lock_fd
        self._room = slot_bytes - _SLOT.size
        self._mappings: list[mmap.mmap] = []
        self._free: list[Slot] = []

    @classmethod
    def create(
        cls, path: Path, slots: int = DEFAULT_SLOTS, slot_bytes: int = DEFAULT_SLOT_BYTES
    ) -> Journal:
        """Make the file, reserve its space and lock it for the life of this process.

        The space is reserved for good, because a store into a mapping over a full disk would kill
        the process. The file appears under its name only once it is whole and locked.

        Args:
            path: Where; its directory is made if missing, the file readable by its owner only.
            slots: How many requests may run before the journal has to grow.
            slot_bytes: Room of one entry, a power of two from 1 KiB to 1 MiB.

        Raises:
            JournalError: the file cannot be made.
        """
        if slot_bytes not in {1 << bits for bits in range(10, 21)}:
            raise ValueError("slot_bytes must be a power of two from 1 KiB to 1 MiB")
        unit = max(_HEADER_BYTES, slot_bytes)
        segment_bytes = -(-slots * slot_bytes // unit) * unit
        draft = path.with_suffix(DRAFT_SUFFIX)
        lock_fd = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_fd = _create_locked(draft)
            journal = cls(path, slot_bytes, segment_bytes, lock_fd)
            os.pwrite(lock_fd, _HEADER.pack(_MAGIC, slot_bytes, os.getpid(), time.time_ns()), 0)
            journal._grow(draft, _HEADER_BYTES)
            os.rename(draft, path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            if lock_fd >= 0:
                os.close(lock_fd)
            raise _unwritable(path, error) from error
        _living.add(journal)
        return journal

    def begin(self, entry: bytes, deadline_ns: int = 0) -> Slot:
        """Note that a request is about to run. Once this returns, the note outlives the process.

        Args:
            entry: The request as a JSON object; truncated (`fit_entry`) if the slot is too small.
            deadline_ns: When the request's limit ends, on `time.monotonic_ns`; 0 if unknown.

        Raises:
            JournalError: every slot is taken and the file cannot grow. The request must not run.
        """
        if len(entry) > self._room:
            entry = fit_entry(entry, self._room)
        if not self._free:
            self._grow(self.path, os.path.getsize(self.path))
        slot = self._free.pop()
        memory, at = slot
        start = at + _SLOT.size
        memory[start : start + len(entry)] = entry
        _SLOT.pack_into(memory, at, len(entry), _checksum(deadline_ns, entry), deadline_ns)
        memory[at] = _USED
        return slot

    def end(self, slot: Slot) -> None:
        """Forget a request whose record is committed.

        Raises:
            ValueError: the slot is not in use; ending twice would drop another request's entry.
        """
        memory, at = slot
        if memory[at] != _USED:
            raise ValueError("this journal slot is not in use")
        memory[at] = _FREE
        self._free.append(slot)

    def close(self) -> None:
        """Let go of the file. It is removed if nothing is left in it."""
        _living.discard(self)
        empty = len(self._free) * self.slot_bytes == len(self._mappings) * self._segment_bytes
        for memory in self._mappings:
            memory.close()
        self._mappings.clear()
        self._free.clear()
        if empty:
            self.path.unlink(missing_ok=True)
        self._release()

    def _grow(self, path: Path, at: int) -> None:
        # Another segment behind the last one: nothing that is mapped has to move.
        try:
            # A descriptor of its own: mmap keeps a duplicate, and the lock must not live in it.
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                _reserve(descriptor, at, self._segment_bytes)
                memory = mmap.mmap(descriptor, self._segment_bytes, offset=at)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._mappings.append(memory)
        self._free.extend((memory, at) for at in range(0, len(memory), self.slot_bytes))
        # Slots are taken from the end: the same few stay in use, and their pages stay warm.

    def _release(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def fit_entry(entry: bytes, limit: int) -> bytes:
    """Cut an entry's input so that it fits `limit` bytes, and say so in it.

    `input` becomes the first part of its own JSON text, `input_truncated` true and `input_bytes`
    the size it had. Where that is not enough, everything else but the ids is cut too.
    """
    # Raw values: a body of megabytes is skipped over, not decoded into objects.
    raw = msgspec.json.decode(entry, type=dict[str, msgspec.Raw])
    text = bytes(raw.pop("input", b"null"))
    document = {name: json.loads(bytes(value)) for name, value in raw.items() if len(value) < limit}
    document |= {name: str(bytes(raw[name])[:limit], "utf-8", "ignore") for name in raw
                 if name not in document}  # fmt: skip
    document |= {"input": "", "input_truncated": True, "input_bytes": len(text)}
    if len(_dump(document)) > limit:
        room = limit // 32
        for name in document.keys() - _KEPT:
            document[name] = _cut(document[name], room)
    room = limit - len(_dump(document)) + len('""')
    document["input"] = _cut(str(text[:limit], "utf-8", "ignore"), room)
    return _dump(document)


def _cut(value: Any, room: int) -> Any:
    """Shorten a text until its JSON fits `room` bytes; other values become text first."""
    if len(_dump(value)) <= room:
        return value
    text = value if isinstance(value, str) else str(_dump(value), "ascii")
    text = text[:room]
    while text and len(_dump(text)) > room:
        # Escapes make up to six bytes of a character: cut off what is certainly too much.
        text = text[: -max(1, (len(_dump(text)) - room) // 6)]
    return text


def read_journal(path: Path) -> JournalFile:
    """Read a journal, whoever holds it.

    Of a living worker it gives a view of the moment, in which a slot that is just being written
    may count as torn.

    Raises:
        FileNotFoundError: it is gone, which is how a journal without leftovers ends.
        JournalError: the file is no journal.
    """
    content = path.read_bytes()
    if len(content) < _HEADER_BYTES or content[:8] != _MAGIC:
        raise JournalError(f"{path} is not a journal", "Move it out of the journal directory.")
    _, slot_bytes, pid, created_ns = _HEADER.unpack_from(content)
    reason, _, place = _read_reason(content).partition(_PLACE)
    return JournalFile(pid, created_ns, reason, place, list(_read(content, slot_bytes)))


def read_leftovers(path: Path) -> list[Leftover]:
    """Return every entry of a journal that was begun and not ended, in no particular order."""
    return read_journal(path).leftovers


def write_reason(path: Path, reason: str, place: str = "") -> None:
    """Note in a journal why its worker died, and at which line of the user's code if that is
    known, so that no restart in between loses it."""
    text = (f"{reason}{_PLACE}{place}" if place else reason).encode()[:_REASON_BYTES]
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, _REASON.pack(len(text), zlib.crc32(text)) + text, _REASON_AT)
        finally:
            os.close(descriptor)


class Claim:
    """The lock of a dead worker's journal. Holding it means: what is left in it is ours."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def remove(self) -> None:
        """Remove the file; call it only after the database has confirmed the leftovers."""
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)


def claim(path: Path) -> Claim | None:
    """Take over a journal, or return None: its worker lives, or someone else took it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our open and our lock another recovery may have finished and removed the file.
        if os.fstat(descriptor).st_nlink:
            return Claim(path, descriptor)
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _create_locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _reserve(descriptor: int, at: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, at, size)
        return
    os.pwrite(descriptor, bytes(size), at)  # macOS


def _unwritable(path: Path, error: OSError) -> JournalError:
    return JournalError(
        f"the journal {path} cannot be written: {error.strerror or error}",
        "Free disk space, or check the rights on the state directory.",
    )


def _dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _checksum(deadline_ns: int, entry: bytes) -> int:
    return zlib.crc32(entry, (deadline_ns ^ deadline_ns >> 32) & 0xFFFFFFFF)


def _read(content: bytes, slot_bytes: int) -> Iterator[Leftover]:
    for at in range(_HEADER_BYTES, len(content) - slot_bytes + 1, slot_bytes):
        if content[at] == _FREE:
            continue
        length, checksum, deadline_ns = _SLOT.unpack_from(content, at)
        start = at + _SLOT.size
        entry = content[start : start + length]
        if length > slot_bytes - _SLOT.size or _checksum(deadline_ns, entry) != checksum:
            yield Leftover(None)
            continue
        try:
            yield Leftover(json.loads(entry), deadline_ns)
        except ValueError:
            yield Leftover(None)


def _read_reason(content: bytes) -> str:
    length, checksum = _REASON.unpack_from(content, _REASON_AT)
    text = content[_REASON_AT + _REASON.size :][: min(length, _REASON_BYTES)]
    return text.decode(errors="replace") if zlib.crc32(text) == checksum else ""


_living: weakref.WeakSet[Journal] = weakref.WeakSet()


def _drop_locks_in_child() -> None:
    # A lock is shared with forked children: one that outlives the worker would keep it "alive".
    for journal in _living:
        journal._release()


os.register_at_fork(after_in_child=_drop_locks_in_child)
