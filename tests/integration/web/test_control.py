"""The socket of a running bridge: who may open it, what it answers, and what becomes of the file."""

import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge.component import Outboxes, OutboxStatus
from bridge.errors import StoreUnavailable
from bridge.web import ControlClient, ControlServer, NotRunning
from bridge.web.control import SOCKET_FILE

STATUS = (
    OutboxStatus("a", 3, 2, 40, 5000, 1.5, "answered: 503", 2.5),
    OutboxStatus("b", 5, 0, 0, 0, None, "", None),
)


class Scripted(Outboxes):
    """Knows "a" and "b"; the store is away for "b"."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    async def status(self) -> Sequence[OutboxStatus]:
        return STATUS

    async def retry(self, exporter: str | None) -> Sequence[str]:
        self.asked.append(("retry", exporter))
        if exporter not in ("a", "b", None):
            raise LookupError(exporter)
        return ["a", "b"] if exporter is None else [exporter]

    async def drop(self, exporter: str, older_than_s: float | None) -> int:
        self.asked.append(("drop", exporter, older_than_s))
        if exporter == "b":
            raise StoreUnavailable("the disk is full")
        if exporter != "a":
            raise LookupError(exporter)
        return 40


@pytest.mark.parametrize("folder", ["data", "x" * 90 + "/" + "y" * 90])
async def test_client_is_answered_as_the_outboxes_do(tmp_path: Path, folder: str) -> None:
    """Every call and every error goes through, also in a folder whose name does not fit into a socket's address; only
    the user the bridge runs as may open the socket, and it goes with the bridge."""
    path = tmp_path / folder
    path.mkdir(parents=True)
    outboxes, client = Scripted(), ControlClient(path)
    async with ControlServer(path, outboxes).running():
        mode = (path / SOCKET_FILE).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert tuple(await client.status()) == STATUS
        assert await client.retry(None) == ["a", "b"]
        assert await client.retry("b") == ["b"]
        assert await client.drop("a", None) == 40
        assert await client.drop("a", 3600.5) == 40
        for call in (client.retry("c"), client.drop("c", None)):
            with pytest.raises(LookupError, match="no exporter 'c'"):
                await call
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await client.drop("b", None)
    asked = [("retry", None), ("retry", "b"), ("drop", "a", None), ("drop", "a", 3600.5)]
    assert outboxes.asked == [*asked, ("retry", "c"), ("drop", "c", None), ("drop", "b", None)]
    assert not (path / SOCKET_FILE).exists()
    with pytest.raises(NotRunning):
        await client.status()


async def test_socket_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    """Nobody answers there; the next bridge makes it anew."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / SOCKET_FILE))
    with pytest.raises(NotRunning):
        await ControlClient(tmp_path).status()
    async with ControlServer(tmp_path, Scripted()).running():
        assert tuple(await ControlClient(tmp_path).status()) == STATUS


async def test_file_of_somebody_else_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bridge goes on without a socket, and says so."""
    (tmp_path / SOCKET_FILE).write_text("theirs")
    async with ControlServer(tmp_path, Scripted()).running():
        pass
    assert (tmp_path / SOCKET_FILE).read_text() == "theirs"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
