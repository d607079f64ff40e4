"""`make run`: start the project, send it real traffic with one failing request, and ask the record.

An order that is placed enqueues its confirmation; its trace shows the job.

Everything shown comes from the same commands a user types. With ONCE=1 the server ends at the end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parent
FLUX = [sys.executable, "-m", "flux_pg"]
START_LIMIT_S = 60.0


def main() -> int:
    """Run the demonstration; the exit status of the first command that failed."""
    port = _choose_port()
    print(f"$ cd examples/orders && flux dev --port {port}", flush=True)
    server = subprocess.Popen([*FLUX, "dev", "--port", str(port)], cwd=PROJECT)
    try:
        base = f"http://localhost:{port}"
        _wait_until_ready(server, base)
        status = _ask_the_record(_send_traffic(base))
        if not os.environ.get("ONCE") and status == 0:
            print(f"\nThe server is still up on {base}. Ctrl-C ends it.", flush=True)
            server.wait()
        return status
    except KeyboardInterrupt:
        return 130
    finally:
        _stop(server)


def _choose_port() -> int:
    """4000 if it is free, else any free one: the demonstration should run beside other servers."""
    wanted = int(os.environ.get("PORT", "4000"))
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("no port is free")


def _wait_until_ready(server: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(server.returncode or 1)
        try:
            if httpx.get(f"{base}/readyz", timeout=1).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"flux dev did not answer on {base}/readyz within {START_LIMIT_S:g} s")


@dataclass(frozen=True)
class Morning:
    """What is to be asked about: two requests and a customer."""

    placed: str
    failed: str
    bob: str


def _send_traffic(base: str) -> Morning:
    """A shop's morning: one order is placed, and its confirmation enqueued; one fails."""
    with httpx.Client(base_url=base, timeout=10) as client:
        suffix = int(time.time())
        ann = client.post("/customers", json={"email": f"ann-{suffix}@example.com"}).json()["id"]
        bob = client.post("/customers", json={"email": f"bob-{suffix}@example.com"}).json()["id"]
        tea = {"customer_id": ann, "lines": [{"sku": "tea", "quantity": 1}]}
        placed = client.post("/orders", json=tea)
        client.get(f"/orders/{placed.json()['id']}")
        client.post("/orders", json={"customer_id": "nobody"})
        client.put(f"/customers/{bob}/discount", json={"percent": 150})
        mug = {"customer_id": bob, "lines": [{"sku": "mug", "quantity": 1}]}
        failed = client.post("/orders", json=mug)
        return Morning(placed.headers["x-request-id"], failed.headers["x-request-id"], str(bob))


def _ask_the_record(morning: Morning) -> int:
    commands = (
        ["trace", morning.failed],
        ["why", morning.failed],
        ["state", "blame", "customers", morning.bob],
        ["trace", morning.placed],
        ["queue", "list"],
        ["schedule", "list"],
    )
    for command in commands:
        print(f"\n$ flux {' '.join(command)}", flush=True)
        done = subprocess.run([*FLUX, *command], cwd=PROJECT, check=False)
        if done.returncode:
            return done.returncode
    return 0


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    raise SystemExit(main())
