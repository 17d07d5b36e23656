"""Files that change: what is made of them follows, and what cannot be used changes nothing."""

import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from bridge.errors import ConfigError
from bridge.security import FileWatch, Reloaded
from bridge.security.reloading import DAY_S

POLL_S = 0.01


class Counted(list[tuple[str, str]]):
    """Kind and result of each reload."""

    def __init__(self) -> None:
        super().__init__()
        self.more = anyio.Event()

    def __call__(self, amount: int, attributes: dict[str, str]) -> None:
        self.extend([(attributes["kind"], attributes["result"])] * amount)
        if amount:
            self.more.set()


def reader(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            text = path.read_text()
        except OSError as exc:
            raise ConfigError(f"cannot read {path}") from exc
        if text == "broken":
            raise ConfigError(f"{path} is broken")
        return text

    return read


async def becomes(reloaded: Reloaded[str], want: str) -> None:
    with anyio.fail_after(10):
        while reloaded.value != want:
            await reloaded.changed()


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Rewritten in place, replaced by another, or reached through a link that was turned, as Kubernetes does it."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, text in ((first, "one"), (second, "four")):
        folder.mkdir()
        (folder / "file").write_text(text)
    (tmp_path / "data").symlink_to(first)
    path = tmp_path / "data" / "file"
    counted = Counted()
    watch = FileWatch(counted, poll_s=POLL_S)
    reloaded = watch.add(Reloaded("web", "tokens", (path,), reader(path)))
    async with watch.running():
        assert reloaded.value == "one"
        (first / "file").write_text("two")
        await becomes(reloaded, "two")
        (tmp_path / "new").write_text("three")
        (tmp_path / "new").replace(first / "file")
        await becomes(reloaded, "three")
        (tmp_path / "link").symlink_to(second)
        (tmp_path / "link").replace(tmp_path / "data")
        await becomes(reloaded, "four")
    assert set(counted) == {("tokens", "ok")}


@pytest.mark.parametrize("damage", ["broken", None])
async def test_what_cannot_be_used_changes_nothing_and_is_told_once(
    tmp_path: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken file, or none at all; the next good one is used."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("good")
    other.write_text("one")
    counted = Counted()
    watch = FileWatch(counted, poll_s=POLL_S)
    reloaded = watch.add(Reloaded("exporters.backend", "certificates", (path,), reader(path)))
    seen_later = watch.add(Reloaded("web", "tokens", (other,), reader(other)))
    async with watch.running():
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        with anyio.fail_after(10):
            await counted.more.wait()
        for text in ("two", "three"):  # the first file is looked at again and again meanwhile
            other.write_text(text)
            await becomes(seen_later, text)
        assert reloaded.value == "good"
        assert counted.count(("certificates", "failed")) == 1
        path.write_text("better")
        await becomes(reloaded, "better")
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].part == "exporters.backend"
    assert str(path) in errors[0].error


async def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """It is read when it has stayed the same from one look to the next."""
    path = tmp_path / "file"
    path.write_text("good")
    reloaded = Reloaded("web", "tokens", (path,), reader(path))
    reloaded.start()
    path.write_text("half")
    assert reloaded.reload() is None
    path.write_text("half and half")
    assert reloaded.reload() is None
    assert reloaded.reload() == "half and half"
    assert reloaded.reload() is None


def test_a_start_with_a_file_that_cannot_be_used_names_the_part(tmp_path: Path) -> None:
    """There is nothing else to go on with."""
    path = tmp_path / "file"
    with pytest.raises(ConfigError, match=r"^receivers\.otlp_http: cannot read"):
        Reloaded("receivers.otlp_http", "tokens", (path,), reader(path)).start()


class Expiring(str):
    """Something with a certificate."""

    expires_s: float


@pytest.mark.parametrize(
    ("left_s", "says"),
    [
        (3 * DAY_S, ["a certificate expires soon"]),
        (-1.0, ["a certificate has expired"]),
        (30 * DAY_S, []),
    ],
)
async def test_a_certificate_that_expires_soon_is_told_at_the_start(
    tmp_path: Path, left_s: float, says: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """And its time is there for a gauge in any case."""
    path = tmp_path / "file"
    path.touch()
    made = Expiring("certificate")
    made.expires_s = 1e9 + left_s
    watch = FileWatch(poll_s=POLL_S, warning_s=14 * DAY_S, now_s=lambda: 1e9)
    watch.add(Reloaded("web", "certificates", (path,), lambda: made))
    async with watch.running():
        await anyio.wait_all_tasks_blocked()
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == says
    assert watch.expiries_s() == {"web": 1e9 + left_s}
