"""docs/check.md has every rule and every setting of `choreo check`, as the code has them."""

import re
from dataclasses import fields
from pathlib import Path

import yaml

from choreo.check.rules import RULES
from choreo.check.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "check.md").read_text()


def test_the_table_of_the_rules_is_that_of_the_code() -> None:
    expected = [
        f'| <a id="{rule.code}"></a>{rule.code} | {rule.level} | {rule.summary} | {rule.why} | {rule.fix} |'
        for rule in RULES.values()
    ]

    listed = [line for line in TEXT.splitlines() if line.startswith('| <a id="')]
    assert listed == expected, "put this into docs/check.md:\n" + "\n".join(expected)


def test_the_table_of_the_settings_is_that_of_the_code() -> None:
    section = TEXT.partition("## Settings\n")[2].partition("\n## ")[0]

    listed = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE))

    declared = {field.name: field.default for field in fields(Settings) if field.name != "file"}
    assert listed == {name: "[]" if default == () else str(default) for name, default in declared.items()}


def test_the_hook_of_pre_commit_runs_the_command_that_exists() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())

    assert (hook["id"], hook["entry"], hook["language"]) == ("choreo-check", "choreo check", "system")
    assert f"id: {hook['id']}" in TEXT
