"""Prometheus and Alertmanager accept the files of monitoring/, and alerts fire when they should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.contract.monitoring import FOLDER, ROOT, program

GUIDE = (ROOT / "docs" / "ops_guide" / "monitoring.md").read_text(encoding="utf-8")
ALERTMANAGER = sorted((FOLDER / "alertmanager").glob("*.yml"))
PROMTOOL, AMTOOL = program("promtool"), program("amtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)"
)
needs_amtool = pytest.mark.skipif(
    AMTOOL is None, reason="amtool is not installed (Debian: prometheus-alertmanager)"
)


def said(*command: object) -> str:
    """What a program prints; fails where it does not succeed."""
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
@needs_amtool
@pytest.mark.parametrize(
    "command", re.findall(r"^(?:promtool|amtool check-config) .*$", GUIDE, re.M)
)
def test_the_commands_of_the_guide_find_nothing_wrong(command: str) -> None:
    """Among them are the configuration of Prometheus, the rules, and the tests of all alerts."""
    assert "SUCCESS" in said(*command.split())


@needs_promtool
def test_a_wrong_expectation_fails(tmp_path: Path) -> None:
    """The tests of the alerts can fail."""
    tests = yaml.safe_load((FOLDER / "tests" / "alerts.yml").read_text(encoding="utf-8"))
    tests["rule_files"] = [str(FOLDER / "tests" / path) for path in tests["rule_files"]]
    del tests["tests"][1:]
    tests["tests"][0]["alert_rule_test"][1]["exp_alerts"][0]["exp_labels"]["instance"] = "good"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    with pytest.raises(AssertionError, match='instance="good"'):
        said(PROMTOOL, "test", "rules", tmp_path / "alerts.yml")


@needs_amtool
@pytest.mark.parametrize("path", ALERTMANAGER, ids=lambda path: path.stem)
def test_alertmanager_accepts_a_configuration(path: Path) -> None:
    assert "SUCCESS" in said(AMTOOL, "check-config", path)


@needs_amtool
@pytest.mark.parametrize(
    ("severity", "receivers"), [("critical", "dingtalk,wecom"), ("warning", "wecom")]
)
def test_the_chat_example_sends_what_is_critical_to_both_groups(
    severity: str, receivers: str
) -> None:
    path = FOLDER / "alertmanager" / "chat.yml"
    routes = said(
        AMTOOL, "config", "routes", "test", f"--config.file={path}", f"severity={severity}"
    )
    assert routes.strip() == receivers


def test_every_receiver_hears_of_the_end_too() -> None:
    for path in ALERTMANAGER:
        for receiver in yaml.safe_load(path.read_text(encoding="utf-8"))["receivers"]:
            configs = [
                config for kind, found in receiver.items() if kind != "name" for config in found
            ]
            assert [config["send_resolved"] for config in configs] == [True]
