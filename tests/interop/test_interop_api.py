"""The API of a running bridge against its own description: schemathesis asks what that allows, and what it does not."""

import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.interop.demo_bridge import bridge_with_traces, kept
from tests.interop.processes import program

pytest.importorskip("schemathesis", reason="no schemathesis: `make interop` installs it")

ASKED_S = 10
END_S = 120.0


async def get(address: str, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
        assert answer.status == 200
        return await answer.json(content_type="application/json")


async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    """Status, headers and body of what is asked as described, in every corner of it; and refusals of what is not: no
    5xx, other methods named as such. Traces that there are are asked for too."""
    async with bridge_with_traces(tmp_path) as address:
        await kept(address)
        description = await get(address, "/api/openapi.json")
        (trace,) = (await get(address, "/api/traces?limit=1"))["traces"]
        for path in description["paths"].values():
            for parameter in path["get"]["parameters"]:
                if parameter["name"] == "trace_id":
                    parameter["examples"] = {"kept": {"value": trace["trace_id"]}}
        schema, log = tmp_path / "openapi.json", tmp_path / "schemathesis.txt"
        schema.write_text(json.dumps(description))
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(schema), "--url", f"http://{address}"]
        command += ["--phases", "examples,coverage,fuzzing", "--max-time", str(ASKED_S), "--seed", "1", "--no-color"]
        async with program(*command, "--continue-on-failure", log=log) as asking:
            with anyio.fail_after(END_S):
                code = await asking.ended()
        assert code == 0, log.read_text()[-8000:]
        assert (await get(address, "/api/status"))["ready"]
