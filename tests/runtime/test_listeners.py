"""Binding the port: one clear error if it cannot be had."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from flux_pg.errors import UsageError
from flux_pg.runtime.listeners import _explain, bind, open_listeners, port_holders


def close(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


async def test_a_taken_port_is_an_error_that_names_the_holder() -> None:
    taken = bind("127.0.0.1", 0)
    port = taken[0].getsockname()[1]
    try:
        with pytest.raises(UsageError, match=rf"port {port} is taken by .*{os.getpid()}") as caught:
            await open_listeners("127.0.0.1", port)
    finally:
        close(taken)
    assert caught.value.code == "port-taken"
    assert caught.value.exit_code == 2
    assert "--port" in caught.value.hint
    assert port_holders(port) == []


def test_localhost_gives_one_port_on_every_address() -> None:
    listeners = bind("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        assert "127.0.0.1" in {listener.getsockname()[0] for listener in listeners}
        for listener in listeners:
            socket.create_connection(listener.getsockname()[:2], timeout=5).close()
    finally:
        close(listeners)


def test_a_port_can_be_had_again_right_after_it_was_used() -> None:
    listeners = bind("127.0.0.1", 0)
    port = listeners[0].getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = listeners[0].accept()
    accepted.close()  # this side keeps TIME_WAIT
    client.close()
    close(listeners)
    close(bind("127.0.0.1", port))


def test_an_unknown_host_is_an_error() -> None:
    with pytest.raises(UsageError, match="unknown") as caught:
        bind("no.such.host.invalid", 0)
    assert caught.value.code == "unknown-host"


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(UsageError, match="cannot listen") as caught:
        bind("192.0.2.1", 4000)
    assert "--host" in caught.value.hint


def test_a_port_that_needs_rights_is_an_error() -> None:
    # Tests may run as root, to whom no port is refused.
    error = _explain(PermissionError(errno.EACCES, "Permission denied"), "127.0.0.1", 80)
    assert error.code == "port-not-permitted"
