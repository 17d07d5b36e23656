"""Every test of this folder that decodes does it with the kernel and with its plain twin."""

import pytest

from bridge.codec import otlp_json, otlp_protobuf, otlp_scan

SCANS = {"plain": otlp_scan.scan_plain, "kernel": otlp_scan.scan_compiled}


@pytest.fixture(autouse=True, params=SCANS)
def scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "kernel" and not otlp_scan.kernel_in_use():
        pytest.skip("no C compiler was there")
    for module in (otlp_protobuf, otlp_json):
        monkeypatch.setattr(module, "scan_request", SCANS[request.param])
