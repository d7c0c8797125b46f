"""Alerts fire when they should and not otherwise, say what to do, and reach somebody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus_server import amtool, promtool

TOP = Path(__file__).parent.parent
PROMETHEUS = TOP / "deploy" / "prometheus"
ALERTMANAGER = TOP / "deploy" / "alertmanager" / "alertmanager.yml"
RUNBOOK = TOP / "docs" / "runbook.md"

SEVERITIES = {"critical": "whoever-is-on-duty", "warning": "somebody"}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def chapters() -> dict[str, str]:
    """The sections of the runbook, by their headings."""
    parts = re.split(r"^## (.*)\n", RUNBOOK.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", PROMETHEUS / "alerts.yml")


def test_each_alert_fires_when_it_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "alerts_test.yml")


def test_each_alert_is_shown_to_fire_and_to_be_silent() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    for alert in alerts():
        fires = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert["alert"]}
        assert fires == {True, False}, alert["alert"]


def test_each_alert_links_to_what_to_do_and_says_how_urgent_it_is() -> None:
    told = chapters()
    assert [alert["alert"] for alert in alerts()] == list(told)
    for alert in alerts():
        name, annotations = alert["alert"], alert["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}
        assert annotations["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert told[name].strip().startswith(f"*{alert['labels']['severity']}*")


def test_the_tool_of_the_alertmanager_finds_nothing_wrong() -> None:
    said = amtool("check-config", ALERTMANAGER)
    assert "2 receivers" in said


@pytest.mark.parametrize("severity", SEVERITIES)
def test_whoever_is_on_duty_is_told_of_what_is_critical(severity: str) -> None:
    routes = ("config", "routes", "test", f"--config.file={ALERTMANAGER}")
    assert amtool(*routes, f"severity={severity}").strip() == SEVERITIES[severity]


def test_the_severities_of_alerts_are_those_that_are_routed() -> None:
    assert {alert["labels"]["severity"] for alert in alerts()} == set(SEVERITIES)


def test_what_is_told_by_another_alert_names_alerts_that_there_are() -> None:
    rules = yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]
    named = {
        name
        for rule in rules
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        for name in re.split(r"[|]", re.split(r"=~?", matcher, maxsplit=1)[1].strip(' "'))
    }
    assert named <= {alert["alert"] for alert in alerts()}


def test_no_secret_is_in_the_files() -> None:
    receivers = yaml.safe_load(ALERTMANAGER.read_text())["receivers"]
    for receiver in receivers:
        (slack,) = receiver["slack_configs"]
        assert slack["api_url_file"].startswith("/etc/alertmanager/secrets/")
        assert "api_url" not in slack
