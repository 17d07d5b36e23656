"""Alert rules and the dashboard use metrics that exist, and operators find what to do about each alert."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
METRICS = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
METRICS |= {f"{name}_bucket" for name in METRICS if name.endswith("_seconds")}
OURS = re.compile(r"\b(?:[a-z]+_)+[a-z]+\b(?=[\[{ )]|$)")
FUNCTIONS = {"histogram_quantile", "label_values"}
RULES = yaml.safe_load((ROOT / "conf" / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "conf" / "grafana" / "espan-bridge.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def used(expression: str) -> set[str]:
    """Metric names in an expression; labels stand in braces, strings and `by` lists."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|by \([^)]*\)', "", expression)
    return set(OURS.findall(bare)) - FUNCTIONS


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *EXPRESSIONS])
def test_every_metric_exists(expression: str) -> None:
    """As docs/metrics.md names it, which another test compares with the code; `up` is Prometheus' own."""
    assert used(expression) or expression.startswith("up{")
    assert used(expression) <= METRICS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_it_means_and_operations_what_to_do(rule: dict[str, Any]) -> None:
    """A heading of its own in docs/operations.md."""
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert f"### {rule['alert']}\n" in (ROOT / "docs" / "operations.md").read_text()


def test_operations_knows_no_alert_that_does_not_exist() -> None:
    """The page lags when a rule goes."""
    headings = re.findall(r"^### (EspanBridge\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]


def test_panels_do_not_overlap() -> None:
    """Grafana would push them apart in an order of its own."""
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in DASHBOARD["panels"]]
    for n, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        assert all(x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in places[:n])
