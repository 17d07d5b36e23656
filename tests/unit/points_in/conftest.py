"""Every test of this folder that decodes does it with the kernel and with its plain twin."""

import pytest

from bridge.codec.points import decode, scan

SCANS = {"plain": scan.scan_plain, "kernel": scan.scan_compiled}


@pytest.fixture(autouse=True, params=SCANS)
def scanning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "kernel" and not scan.kernel_in_use():
        pytest.skip("no C compiler was there")
    monkeypatch.setattr(decode, "scan_points", SCANS[request.param])
