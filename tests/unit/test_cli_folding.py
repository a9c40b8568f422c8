"""What commands say on stderr fits the terminal, and a pipe gets each sentence whole."""

import logging

import pytest
from click.testing import CliRunner

from choreo.cli import choreo, main
from choreo.cli.app import tell
from choreo.cli.folding import told
from choreo.cli.quiet import spoken, unlogged
from choreo.errors import ChoreoError

COMMAND = "`choreo dead-letters replay 0123456789 --to payment.charge_the_customer_again_tomorrow_and_later`"
URL = f"redis://alice@{'a-long-name.' * 7}example.com:6379/0"


def test_a_sentence_is_folded_at_spaces_and_neither_in_a_command_nor_in_a_url(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = f"Warning: no worker declares it, and it is well-known that this is long. Send it: {COMMAND}, or see {URL}."

    lines = told(text).split("\n")

    assert " ".join(lines) == text
    assert f"{COMMAND}," in lines
    assert any(line.endswith(f"{URL}.") for line in lines)
    assert all(len(line) <= 80 for line in lines if COMMAND not in line and URL not in line)


def test_lines_that_are_made_up_already_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = f"The end of its log:\n  {'word ' * 30}\nEverything is stopped."

    assert told(text) == text


def test_a_pipe_gets_the_sentence_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)

    assert told("word " * 40) == "word " * 40


def test_a_warning_of_choreo_is_folded_as_a_sentence_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "80")
    for logger in (logging.root, logging.getLogger("choreo")):
        monkeypatch.setattr(logger, "handlers", [])  # as in a command: no log is configured
    warning = "Redis at redis://example.com:6379 keeps nothing on disk: a restart loses all messages. Set it."

    with spoken(tell):
        logging.getLogger("choreo.broker").warning(warning)
        with unlogged("choreo.delivery.notice"):
            logging.getLogger("choreo.delivery.notice").warning("the command says it itself")

    said = capsys.readouterr().err
    assert " ".join(said.split()) == warning
    assert [line for line in said.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "command",
    [
        ["up", "there_is_no_package_of_this_name_in_this_directory_or_elsewhere"],
        ["--broker", "nonsense://host-of-the-broker-whose-name-is-long", "trace", "ORD-1"],
        ["--no-such-option-is-known-to-this-command-line-and-none-is-like-it", "and", "more", "words", "behind", "it"],
        ["joins", "show", "ORD-1", "and", "more", "words", "that", "are", "too", "many", "for", "a", "single", "line"],
    ],
)
def test_the_errors_of_all_commands_are_folded(command: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = CliRunner().invoke(choreo, command).stderr
    monkeypatch.setenv("COLUMNS", "80")

    folded = CliRunner().invoke(choreo, command).stderr

    assert max(map(len, folded.splitlines())) <= 80 < max(map(len, whole.splitlines()))
    assert folded.partition("Error: ")[2].split() == whole.partition("Error: ")[2].split()


def test_an_error_of_choreo_is_folded_too(monkeypatch: pytest.MonkeyPatch):
    def fail(**_: object) -> None:
        raise ChoreoError("word " * 40)

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("choreo.cli.choreo", fail)

    with pytest.raises(SystemExit) as caught:
        main()

    lines = str(caught.value.code).splitlines()
    assert lines[0].startswith("Error: word word")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
