"""What the clients ask for: every function of the project, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

CLIENTS = 6
NEEDING_SECRETS = ("measure", "keep_secret")


@dataclass
class Answer:
    """One request as its client saw it."""

    function: str
    request_id: str
    status: int
    headers: httpx.Headers
    body: bytes


@dataclass
class Ask:
    """One request to send."""

    function: str
    method: str
    target: str
    options: dict[str, Any] = field(default_factory=dict)


class Mix:
    """Requests of one client.

    Args:
        rng: Decides everything.
        client: Its number; names of rows begin with it.
    """

    def __init__(self, rng: random.Random, client: int) -> None:
        self._rng = rng
        self._client = client
        self._made = 0
        self._things: list[str] = []
        self._kinds: list[Callable[[], Ask]] = [
            getattr(self, name) for name in dir(self) if name.startswith("ask_")
        ]

    def next(self) -> Ask:
        """The next request: each kind in turn, in a shuffled order, then again."""
        if not hasattr(self, "_turn") or not self._turn:
            self._turn = list(self._kinds)
            self._rng.shuffle(self._turn)
        return self._turn.pop()()

    def _post(self, function: str, **given: Any) -> Ask:
        return Ask(function, "POST", f"/{function}", {"json": given})

    def _name(self) -> str:
        self._made += 1
        return f"c{self._client}-{self._made}"

    def _account(self) -> int:
        return self._rng.randint(1, 12)

    def ask_deposit(self) -> Ask:
        amount = f"{self._rng.randint(1, 9999) / 100:.2f}"
        return self._post("deposit", account=self._account(), amount=amount, note="in")

    def ask_transfer(self) -> Ask:
        source, target = self._rng.sample(range(1, 13), 2)
        return self._post(
            "transfer", source=source, target=target, amount=self._rng.choice([5, 1e6])
        )

    def ask_rebalance(self) -> Ask:
        low = self._rng.choice([21, 31])
        return self._post("rebalance", low=low, high=low + 9)

    def ask_audit(self) -> Ask:
        return self._post("audit", account=self._rng.randint(21, 40))

    def ask_show_account(self) -> Ask:
        account = self._rng.choice([*range(1, 13), 99])
        return Ask("show_account", "GET", f"/accounts/{account}?last={self._rng.randint(1, 4)}")

    def ask_overdraw(self) -> Ask:
        return self._post("overdraw", account=self._account())

    def ask_try_overdraw(self) -> Ask:
        return self._post("try_overdraw", account=self._account())

    def ask_in_steps(self) -> Ask:
        fail = self._rng.random() < 0.3
        # What commits several times stands in a chain where it ended: others see its parts before.
        account = self._rng.randint(13, 20)
        return self._post("in_steps", account=account, name=self._name(), fail=fail)

    def ask_put_thing(self) -> Ask:
        name = self._name()
        self._things.append(name)
        tags = self._rng.sample(["a", "b,c", 'd"e', "ü", "", "null"], 3)
        return self._post("put_thing", name=name, seed=self._rng.randint(1, 99999), tags=tags)

    def _thing(self) -> str:
        return self._rng.choice([*self._things[-5:], "nothing"])

    def ask_show_thing(self) -> Ask:
        return Ask("show_thing", "GET", f"/things/{self._thing()}")

    def ask_touch_thing(self) -> Ask:
        return self._post("touch_thing", name=self._thing(), amount=self._rng.randint(-5, 50))

    def ask_drop_thing(self) -> Ask:
        return Ask("drop_thing", "DELETE", f"/things/{self._thing()}")

    def ask_list_things(self) -> Ask:
        query = f"prefix=c{self._client}-&limit={self._rng.randint(1, 9)}&kinds=small&kinds=large"
        return Ask("list_things", "GET", f"/things?{query}")

    def ask_twice(self) -> Ask:
        return self._post("twice", name=self._name())

    def ask_orphan(self) -> Ask:
        return self._post("orphan", name=self._name(), save=self._rng.random() < 0.5)

    def ask_take_slot(self) -> Ask:
        return self._post("take_slot", hour=self._rng.randint(1, 3), by=self._name())

    def ask_broken_sql(self) -> Ask:
        how = self._rng.choice(["syntax", "zero", "table", "commit", "swallowed", "other"])
        return self._post("broken_sql", name=self._name(), how=how)

    def ask_ask(self) -> Ask:
        return self._post("ask", text="ü" * self._rng.randint(0, 9), times=self._rng.randint(1, 3))

    def ask_ask_plainly(self) -> Ask:
        status = self._rng.choice([200, 201, 404, 500])
        return self._post("ask_plainly", text="a b&c", status=status)

    def ask_ask_in_thread(self) -> Ask:
        return self._post("ask_in_thread", text=self._name())

    def ask_ask_too_long(self) -> Ask:
        return self._post("ask_too_long", name=self._name())

    def ask_ask_nobody(self) -> Ask:
        return self._post("ask_nobody", how=self._rng.choice(["hangup", "refused"]))

    def ask_fetch(self) -> Ask:
        return self._post("fetch", size=self._rng.choice([0, 1, 5000, 100_000]))

    def ask_follow(self) -> Ask:
        return self._post("follow")

    def ask_buy(self) -> Ask:
        return self._post("buy", account=self._account(), item=self._name())

    def ask_clocks(self) -> Ask:
        return self._post("clocks", zone=self._rng.randint(-11, 12))

    def ask_chance(self) -> Ask:
        return self._post("chance", sides=self._rng.randint(2, 100))

    def ask_plain_values(self) -> Ask:
        return self._post("plain_values", n=self._rng.randint(0, 5))

    def ask_environment(self) -> Ask:
        return self._post("environment")

    def ask_late(self) -> Ask:
        return self._post("late", name=self._name())

    def ask_too_slow(self) -> Ask:
        where = self._rng.choice(["sleep", "statement"])
        return self._post("too_slow", name=self._name(), where=where)

    def ask_raises(self) -> Ask:
        how = self._rng.choice(["key", "chained", "group", "unjson", "lookup"])
        return self._post("raises", name=self._name(), how=how)

    def ask_gather(self) -> Ask:
        return self._post("gather", accounts=self._rng.sample(range(1, 41), 4))

    def ask_first_come(self) -> Ask:
        return self._post("first_come", n=self._rng.randint(2, 5))

    def ask_write_at_once(self) -> Ask:
        return self._post("write_at_once", account=self._account(), n=self._rng.randint(2, 4))

    def ask_threads(self) -> Ask:
        return self._post("threads", n=self._rng.randint(1, 3))

    def ask_in_thread(self) -> Ask:
        return self._post("in_thread")

    def ask_nested(self) -> Ask:
        return self._post("nested", account=self._account(), depth=self._rng.randint(0, 2))

    def ask_enqueue(self) -> Ask:
        return self._post("enqueue", name=self._name(), fail=self._rng.choice([0, 0, 1, 9]))

    def ask_put_hour(self) -> Ask:
        room = self._rng.choice(["caf%C3%A9", "a%20b", "x"])
        body = {"by": self._name(), "note": "ü\u0000" if self._rng.random() < 0.1 else "n"}
        target = f"/rooms/{room}/hours/{self._rng.randint(1, 3)}?x=1&x=2"
        return Ask("put_hour", "PUT", target, {"json": body})

    def ask_form(self) -> Ask:
        data = {"name": "a b", "age": str(self._rng.randint(1, 99)), "tags": ["1", "two"]}
        return Ask("form", "POST", "/form", {"data": data})

    def ask_upload(self) -> Ask:
        content = self._rng.randbytes(self._rng.choice([0, 10, 3000]))
        files = {"file": ("f.bin", content, "application/octet-stream")}
        return Ask("upload", "POST", "/upload", {"data": {"name": "n"}, "files": files})

    def ask_raw(self) -> Ask:
        content = self._rng.randbytes(self._rng.choice([1, 10, 2000]))
        headers = {"content-type": "application/octet-stream"}
        return Ask("raw", "POST", "/raw", {"content": content, "headers": headers})

    def ask_large(self) -> Ask:
        kind = self._rng.choice(["text", "rows", "object"])
        return self._post("large", size=self._rng.choice([10, 1000]), kind=kind)

    def ask_log_in(self) -> Ask:
        name, password = self._rng.choice([("ann", "sesame"), ("ann", "open"), ("bob", "b")])
        return self._post("log_in", name=name, password=password)

    def ask_headers(self) -> Ask:
        headers = {"x-color": "blue", "authorization": "Bearer sesame", "cookie": "a=1"}
        return Ask("headers", "GET", "/headers", {"headers": headers})

    def ask_empty(self) -> Ask:
        return Ask("empty", "GET", "/empty")


async def send_all(port: int, seed: int, count: int) -> list[Answer]:
    """Have the clients send `count` requests; what each saw."""
    answers: list[Answer] = []

    async def client(number: int) -> None:
        mix = Mix(random.Random(f"{seed} {number}"), number)
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, timeout=60) as http:
            for _ in range(count // CLIENTS):
                ask = mix.next()
                answer = await http.request(ask.method, ask.target, **ask.options)
                request_id = answer.headers["x-request-id"]
                answers.append(
                    Answer(
                        ask.function, request_id, answer.status_code, answer.headers, answer.content
                    )
                )

    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(client, number)
    return answers


async def send_secrets(port: int) -> None:
    """Two requests whose functions need a secret themselves."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        for function in NEEDING_SECRETS:
            given = {"name": "carl", "password": "open sesame"}
            answer = await http.post(f"/{function}", json=given)
            assert answer.status_code == 200, answer.text
