"""`choreo dead-letters` with groups: listed, replayed with a canary and a rate, discarded with a note, exported."""

import json
import signal
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from choreo import DeadLetter
from choreo.cli.choosing import Since
from choreo.cli.dead_letters import dead_letters
from choreo.cli.rates import RATE
from choreo.operate import group_replay
from choreo.rates import rate_text
from tests.unit.test_letter_groups import CHARGE, THANK, Shop


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop()
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: shop.app)
    monkeypatch.setattr(group_replay, "sleep", shop.stage.pass_time)
    return shop


def run(*arguments: str, code: int = 0, **options) -> Result:
    result = CliRunner().invoke(dead_letters, arguments, **options)
    assert result.exit_code == code, result.output
    return result


def group(shop: Shop, handler: str = CHARGE) -> str:
    (found,) = shop.letters.groups(handler)
    return found.id


# -- groups ----------------------------------------------------------------------------------------------------------


def test_the_groups_are_what_the_command_shows_alone(shop):
    assert run().stdout == "No dead letters.\n"
    shop.fail(3)
    shop.fail(1, THANK)

    said = run().stdout

    heading, first, second, empty, *footer = said.splitlines()
    assert heading.split() == ["GROUP", "COUNT", "FIRST", "LAST", "HANDLER", "CAUSE"]
    cause = shop.letters.groups(CHARGE)[0].cause
    assert first.split(maxsplit=5) == [group(shop), "3", "01-01", "01-01", CHARGE, cause]
    assert second.split()[:2] == [group(shop, THANK), "1"]
    assert (empty, footer[0]) == (
        "",
        "4 dead letters in 2 groups. # stands for what differs from letter to letter.",
    )
    assert said == run("groups").stdout


def test_the_groups_fit_80_columns_and_nothing_of_them_is_cut(shop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shop.fail(2)
    shop.fail(1, first=7, customer="a customer with a name that is long")

    lines = run().stdout.splitlines()

    assert all(len(line) <= 80 for line in lines)
    assert "a customer with a name that is long has no account for #" in " ".join(" ".join(lines).split())


def test_a_long_handler_leaves_the_cause_a_line_of_its_own(shop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    handler = "notification.text_the_customer_about_it"
    (letter,) = shop.fail(1)
    shop.stage.store.register([handler])
    shop.stage.store.add_letter(handler, "0123456789", letter.to_json().replace(letter.id, "0123456789"))

    lines = run("groups", handler).stdout.splitlines()

    assert lines[1].endswith(handler)
    assert lines[2].startswith("      PermanentFailure test_letter_groups:")
    assert all(len(line) <= 80 for line in lines)


def test_groups_are_listed_as_json_and_limited(shop):
    shop.fail(3)
    shop.fail(1, THANK)

    first, second = (json.loads(line) for line in run("groups", "--json").stdout.splitlines())

    assert (first["count"], first["handler"], first["error"]) == (3, CHARGE, "PermanentFailure")
    assert datetime.fromisoformat(first["first"]).tzinfo is not None
    assert second["count"] == 1
    assert "1 of 4 dead letters in 2 groups (--limit)." in run("groups", "--limit", "1").stdout


def test_groups_and_letters_are_filtered(shop):
    shop.fail(3)
    shop.fail(2, THANK, first=2)

    assert "2 dead letters in 1 group." in run("groups", "--cause", "ValueError").stdout
    assert "2 dead letters in 2 groups." in run("groups", "payment", "--subject", "ORD-2").stdout
    assert "2 in all" in run("list", "--cause", "ValueError").stdout
    assert "1 in all" in run("list", THANK, "--since", "1s", "--subject", "ORD-3").stdout
    assert "No dead letters with --cause KeyError.\n" in run("list", "--cause", "KeyError").stdout
    assert "Types of errors: PermanentFailure, ValueError. Groups: " in run("groups", "--cause", "KeyError").stderr
    assert "More: choreo dead-letters list payment --cause ValueError --limit 1 --after" in (
        run("list", "payment", "--cause", "ValueError", "--limit", "1").stdout
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-30T07:10", datetime(2026, 11, 30, 7, 10, tzinfo=UTC)),
        ("2026-11-30", datetime(2026, 11, 30, tzinfo=UTC)),
        ("2026-11-30T07:10+01:00", datetime(2026, 11, 30, 6, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_is_in_utc_unless_it_says_otherwise(text, moment):
    assert Since.read(text) == moment


def test_a_time_that_is_none_is_refused(shop):
    said = run("list", "--since", "yesterday", code=2).output

    assert "'yesterday' is no time. Write it like 2h or 2026-11-30T07:10." in said


@pytest.mark.parametrize(("text", "rate"), [("20/s", 20.0), ("300/m", 5.0), ("1800/h", 0.5), ("0.5/s", 0.5)])
def test_a_rate_is_a_number_per_time(text, rate):
    assert RATE.convert(text, None, None) == rate
    assert RATE.convert(rate_text(rate), None, None) == rate


@pytest.mark.parametrize("text", ["20", "0/s", "-1/s", "20/w", "x/s", "1e9/s", "9999999999999/s"])
def test_what_is_no_rate_is_refused(shop, text):
    assert (
        f"{text!r} is no rate. Write it like 20/s, 300/m or 1000/h."
        in run("replay", "0123456789", "--rate", text, code=2).output
    )


# -- replay ----------------------------------------------------------------------------------------------------------


def test_a_group_is_replayed(shop):
    shop.fail(30)
    shop.mended.add("charge")

    result = run("replay", group(shop), "--reason", "mended")

    assert result.stdout == "30 of 30 replayed.\n"
    shop.stage.pass_time(1)
    assert len(shop.handled) == 30
    assert shop.app.repairs.recent()[0].reason == "mended"


def test_what_is_replayed_to_a_paused_handler_waits_and_that_is_said(shop):
    shop.fail(2)
    shop.app.pauses.pause(CHARGE)

    canary = run("replay", group(shop), "--canary", "--yes", code=1).output
    others = run("replay", group(shop), "--yes").output

    assert f"{CHARGE} is paused, and it waits in the queue until that is resumed." in " ".join(canary.split())
    note = f"Note: {CHARGE} is paused. This waits in its queue until it is resumed: `choreo resume {CHARGE}`."
    assert note in " ".join(others.split())


def test_the_blanks_in_a_cause_are_explained(shop, monkeypatch):
    shop.fail(1)
    assert "1 dead letter in 1 group. # stands for what differs from letter to letter.\n" in run().output

    monkeypatch.setattr("choreo.operate.which.Cause.__str__", lambda _: "ValueError payment:10: no cents")
    assert "1 dead letter in 1 group.\n" in run().output


def test_the_canary_asks_before_the_others_follow(shop):
    shop.fail(3)
    shop.mended.add("charge")

    refused = run("replay", group(shop), "--canary", input="n\n", code=1).stdout
    assert refused.startswith("1 of 3 replayed (ORD-0): done in ")
    assert "Go on with 2? [y/N]: n\n1 of 3 replayed.\n" in refused
    said = run("replay", group(shop), "--canary", input="y\n").stdout
    assert said.endswith("Go on with 1? [y/N]: y\n2 of 2 replayed.\n")
    shop.stage.pass_time(1)
    assert shop.handled == ["ORD-0", "ORD-1", "ORD-2"]


def test_with_yes_the_others_follow_only_if_the_canary_succeeds(shop):
    shop.fail(3)

    name = group(shop)

    result = run("replay", name, "--canary", "--yes", code=1)
    said = result.stdout
    assert "(ORD-0): failed again: PermanentFailure: alice has no account for ORD-0.\n" in said
    assert "1 of 3 replayed, 1 of them failed again." in said
    assert f"When that is mended: choreo dead-letters replay {name}" in result.stderr
    assert len(shop.letters.find()) == 3

    shop.mended.add("charge")
    assert "3 of 3 replayed.\n" in run("replay", group(shop), "--canary", "--yes").stdout


def test_a_replay_that_stops_by_itself_says_why_and_how_to_go_on(shop):
    shop.fail(30)
    name = group(shop)

    result = run("replay", name, "--rate", "40/s", "--to", CHARGE, "--handler", "payment", code=1)

    assert " of 30 replayed, " in result.stdout
    assert "Stopped: " in result.stderr
    assert "have failed again: PermanentFailure: alice" in result.stderr
    again = f"choreo dead-letters replay {name} --handler payment --to {CHARGE} --rate 40/s"
    assert f"When that is mended: {again}" in result.stderr


def test_ctrl_c_stops_after_the_batch_and_says_how_to_go_on(shop, monkeypatch):
    shop.fail(30)
    name, replay_all = group(shop), shop.stage.store.replay_all

    def interrupt(*given):
        signal.raise_signal(signal.SIGINT)
        return replay_all(*given)

    monkeypatch.setattr(shop.stage.store, "replay_all", interrupt)

    result = run("replay", name, code=130)

    assert result.stdout.startswith("10 of 30 replayed")
    assert f"Stopped. To go on: choreo dead-letters replay {name}\n" in result.stderr
    assert len(shop.letters.find()) >= 20
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_at_the_question_leaves_the_others(shop, monkeypatch):
    shop.fail(3)
    shop.mended.add("charge")
    monkeypatch.setattr("click.confirm", lambda _: signal.raise_signal(signal.SIGINT))

    result = run("replay", group(shop), "--canary", code=130)

    assert "1 of 3 replayed.\n" in result.stdout
    assert "Stopped. To go on: choreo dead-letters replay" in result.stderr


def test_a_dry_run_says_what_would_be_replayed_and_does_nothing(shop):
    shop.fail(12)

    said = run("replay", group(shop), "--dry-run").stdout

    assert f"{CHARGE}: order.placed ORD-0" in said
    assert "... and 2 more\n\n12 dead letters would be replayed. Nothing was.\n" in said
    assert len(shop.letters.find()) == 12
    refused = run("replay", group(shop), "--dry-run", "--to", "payment.nonesuch", code=1)
    assert "is no handler that a worker declares" in refused.stderr
    assert "No such dead letters" not in said


def test_a_replay_by_choice_alone_asks(shop):
    shop.fail(3)

    assert "Replay 3 dead letters (payment)? [y/N]" in run("replay", "--handler", "payment", input="n\n").stdout
    assert len(shop.letters.find()) == 3
    shop.mended.add("charge")
    assert run("replay", "--handler", "payment", "--yes").stdout == "3 of 3 replayed.\n"
    assert run("replay", "--handler", "payment", "--yes").stdout == "No such dead letters.\n"


def test_a_replay_of_nothing_is_refused(shop):
    assert "Name a group or a letter" in run("replay", code=2).output
    assert "Name a group or a letter" in run("discard", code=2).output
    assert "no group of dead letters, and no letter, '0123'" in run("replay", "0123", "--canary", code=1).stderr


def test_a_group_and_something_unknown(shop):
    shop.fail(1)
    shop.mended.add("charge")

    result = run("replay", "nonesuch", group(shop), code=1)

    assert "Error: There is no dead letter 'nonesuch'" in result.stderr
    assert result.stdout == "1 of 1 replayed.\n"


def test_many_refusals_are_told_in_a_few_lines(shop):
    (letter,) = shop.fail(1)
    for number in range(20):
        shop.stage.store.add_letter(CHARGE, f"{number:010}", letter.to_json().replace('"attempts"', '"odd"'))

    result = run("replay", "--handler", CHARGE, "--yes", code=1)

    assert result.stdout.startswith("1 of 21 replayed, 20 not")
    assert result.stderr.count("cannot be replayed by this version") == 10
    assert "Error: and others like these.\n" in result.stderr


def test_a_bar_is_shown_on_a_terminal(shop, monkeypatch):
    shop.fail(30)
    shop.mended.add("charge")
    shown: list[int] = []

    class Bar:
        def __init__(self, *_, **__):
            pass

        def add_task(self, *_, total, **__):
            return shown.append(total)

        def update(self, _, *, completed, **__):
            shown.append(completed)

        def start(self):
            pass

        stop = start

    monkeypatch.setattr("rich.progress.Progress", Bar)
    monkeypatch.setattr("choreo.cli.progress.sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))

    assert run("replay", group(shop)).stdout == "30 of 30 replayed.\n"
    assert (shown[0], shown[1], shown[-1]) == (30, 10, 30)


def test_elsewhere_a_line_is_printed_now_and_then(shop, monkeypatch):
    shop.fail(30)
    shop.mended.add("charge")
    monkeypatch.setattr("choreo.cli.progress.EVERY", 0.0)

    assert "10 of 30 replayed\n" in run("replay", group(shop)).stderr


# -- discard and export ----------------------------------------------------------------------------------------------


def test_a_group_is_discarded_with_a_note_after_a_question(shop):
    shop.fail(3)
    name = group(shop)

    asked = run("discard", name, "--reason", "test orders", input="n\n").stdout
    assert f"Forget 3 dead letters ({name} {CHARGE}) for good? [y/N]" in asked
    assert len(shop.letters.find()) == 3

    assert "3 of 3 forgotten.\n" in run("discard", name, "--reason", "test orders", input="y\n").stdout
    assert shop.letters.find() == []
    repair = shop.app.repairs.recent()[0]
    assert (repair.action, repair.count, repair.reason) == ("discarded", 3, "test orders")


def test_letters_are_exported_whole_and_stay(shop, tmp_path):
    letters = shop.fail(3)
    shop.fail(1, THANK)
    file = tmp_path / "letters.jsonl"

    assert run("export", CHARGE, "--output", str(file)).stdout == f"3 dead letters in {file}.\n"

    assert [DeadLetter.from_json(line) for line in file.read_text().splitlines()] == letters
    assert len(run("export", "--cause", "ValueError").stdout.splitlines()) == 1
    assert len(shop.letters.find()) == 4
    refused = run("export", "--output", str(file), code=1).stderr
    assert f"{file} exists. Name a new file" in refused
    assert "cannot be written: No such file or directory." in run("export", "--output", "/none/x", code=1).stderr
