"""Run with `pytest`. Each call is recorded as any other request; look at one with `flux trace`."""

import json
import subprocess
import sys


def invoke(function: str, **data: object) -> dict[str, object]:
    """Call a function of this project as `flux invoke` does."""
    command = [sys.executable, "-m", "flux_pg", "invoke", function, "--data", json.dumps(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_hello_greets_by_name() -> None:
    assert invoke("hello", name="Ada")["message"] == "Hello, Ada!"
