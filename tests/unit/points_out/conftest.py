"""Both implementations of what is compiled."""

from typing import Any

import pytest

from bridge.codec.points import encode, from_otlp, point_writer, restoring, to_otlp
from bridge.codec.points.splice import PlainPointSplicer, PointSplicer

IMPLEMENTATIONS = ["plain"] + ["kernel"] * (PointSplicer is not PlainPointSplicer)


@pytest.fixture(autouse=True, params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run with the kernel and without."""
    if request.param == "plain":
        monkeypatch.setattr(encode, "PointSplicer", PlainPointSplicer)
        for module in (point_writer, restoring):
            monkeypatch.setattr(module, "value_field", point_writer.value_field_plain)
        monkeypatch.setattr(to_otlp, "split_point", to_otlp._no_kernel)
        monkeypatch.setattr(from_otlp, "span_attributes", from_otlp._no_kernel)
    return PlainPointSplicer if request.param == "plain" else PointSplicer
