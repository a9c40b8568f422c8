"""Groups of dead letters: found by handler, cause, time and subject; replayed and discarded together."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest

from choreo import PermanentFailure, Retry, Service
from choreo.delivery.dead_letter import DeadLetter
from choreo.errors import DeadLetterError, StoreError
from choreo.operate import group_replay
from choreo.operate.cabinet import PAGE
from choreo.operate.which import short_ids
from tests.unit.events import OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

CHARGE, THANK = "payment.charge", "payment.thank"


class Shop:
    """A service whose handlers fail until they are mended."""

    def __init__(self) -> None:
        self.app = service("payment", retry=Retry(times=0))
        self.mended: set[str] = set()
        self.handled: list[str] = []
        self._declare(self.app)
        self.stage = Stage(self.app)

    def _declare(self, app: Service) -> None:
        @app.on(OrderPlaced)
        def charge(order: OrderPlaced) -> None:
            if "charge" not in self.mended:
                raise PermanentFailure(f"{order.customer_id} has no account for {order.meta.subject}")
            self.handled.append(order.meta.subject)

        @app.on(PaymentCharged)
        def thank(charged: PaymentCharged) -> None:
            raise ValueError(f"no words for {charged.meta.subject}")

    def fail(self, count: int, handler: str = CHARGE, first: int = 0, customer: str = "alice") -> list[DeadLetter]:
        """So many dead letters, a second apart."""
        for number in range(first, first + count):
            self.stage.wait(1)
            subject = f"ORD-{number}"
            event = OrderPlaced(customer_id=customer) if handler == CHARGE else PaymentCharged()
            self.stage.deliver(envelope(event, subject=subject, id=f"{handler}-{number}"), handler)
        return self.stage.dead_letters

    @property
    def letters(self):
        return self.app.dead_letters


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop()
    # Where a replay waits, the services work.
    monkeypatch.setattr(group_replay, "sleep", shop.stage.pass_time)
    return shop


@pytest.fixture
def unattended(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Nothing is handled while a replay goes on."""
    monkeypatch.setattr(group_replay, "sleep", lambda _: None)
    monkeypatch.setattr(group_replay, "PATIENCE", 0.0)
    return shop


# -- groups ----------------------------------------------------------------------------------------------------------


def test_letters_that_differ_in_ids_only_are_one_group_and_the_largest_comes_first(shop):
    shop.fail(2, THANK)
    shop.fail(3)

    large, small = shop.letters.groups()

    assert (large.handler, large.count, large.reason, large.error) == (CHARGE, 3, "refused", "PermanentFailure")
    assert large.cause.startswith("PermanentFailure test_letter_groups:")
    assert large.cause.endswith(": alice has no account for #")
    assert (large.last - large.first).total_seconds() == 2
    assert large.first.tzinfo is UTC
    assert (small.handler, small.count, small.error) == (THANK, 2, "ValueError")
    assert large.id == large.digest[:4]
    assert shop.letters.get(shop.letters.find(CHARGE)[0].id).group == large.digest


def test_another_message_is_another_group(shop):
    shop.fail(2)
    shop.fail(1, first=5, customer="bob")

    assert [group.count for group in shop.letters.groups()] == [2, 1]


def test_groups_letters_and_counts_are_chosen_by_the_same_words(shop):
    shop.fail(3)
    shop.fail(2, THANK, first=2)
    charge, thank = shop.letters.groups()

    def chosen(*names: str, **given) -> tuple[list[str], int]:
        groups = shop.letters.groups(*names, **given)
        found = shop.letters.find(*names, **given)
        assert sum(group.count for group in groups) == len(found) == shop.letters.count(*names, **given)
        page, after = shop.letters.page(*names, **given)
        assert (page, after) == (found, "")
        return [group.digest for group in groups], len(found)

    assert chosen() == ([charge.digest, thank.digest], 5)
    assert chosen(THANK) == ([thank.digest], 2)
    assert chosen("payment") == ([charge.digest, thank.digest], 5)
    assert chosen("driver") == ([], 0)
    assert chosen(cause="ValueError") == ([thank.digest], 2)
    assert chosen(cause=charge.id) == ([charge.digest], 3)
    assert chosen(cause=charge.digest) == ([charge.digest], 3)
    assert chosen(cause="KeyError") == ([], 0)
    assert chosen(subject="ORD-2") == ([charge.digest, thank.digest], 2)
    assert chosen(subject="ORD-2", cause="ValueError") == ([thank.digest], 1)
    assert chosen(subject="ORD") == ([], 0)
    assert chosen(since=timedelta(seconds=1)) == ([thank.digest], 2)
    assert chosen(since=shop.letters.find()[2].failed_at) == ([thank.digest, charge.digest], 3)
    assert chosen(since=datetime(2100, 1, 1, tzinfo=UTC)) == ([], 0)
    assert chosen(THANK, subject="ORD-2", since=timedelta(hours=1)) == ([thank.digest], 1)


def test_a_group_about_a_subject_has_the_times_of_these_letters(shop):
    shop.fail(3)

    (group,) = shop.letters.groups(subject="ORD-1")

    assert group.first == group.last == shop.letters.find()[1].failed_at


def test_pages_follow_each_other_also_when_letters_are_gone(shop):
    letters = shop.fail(5)

    first, after = shop.letters.page(limit=2)
    shop.letters.discard(first[1].id)
    second, following = shop.letters.page(limit=2, after=after)
    third, last = shop.letters.page(limit=2, after=following)

    assert [*first, *second, *third] == letters
    assert last == ""
    with pytest.raises(DeadLetterError, match="'x' is no place in a list"):
        shop.letters.page(after="x")


def test_letters_of_one_moment_are_paged_in_the_order_in_which_they_were_recorded(shop):
    for number in range(5):
        shop.stage.deliver(envelope(OrderPlaced(customer_id="a"), subject=f"ORD-{number}", id=f"{number}"), CHARGE)

    found, after = [], "-"
    while after:
        page, after = shop.letters.page(limit=2, after=after.strip("-"))
        found += [letter.subject for letter in page]

    assert found == [f"ORD-{number}" for number in range(5)]


def test_an_id_is_as_short_as_no_other_group_has_it():
    ids = short_ids(["a3f1" + "0" * 12, "a3f1" + "1" * 12, "77c0" + "5" * 12])

    assert sorted(ids.values()) == ["77c0", "a3f10", "a3f11"]
    assert short_ids([]) == {}


def test_an_ambiguous_or_unknown_id_of_a_group_is_refused(shop, monkeypatch):
    shop.fail(1)
    shop.fail(1, THANK)
    one, other = shop.letters.groups()

    assert shop.letters.group(one.digest[:8]) == one
    with pytest.raises(DeadLetterError, match="no group of dead letters, and no letter, '0123'"):
        shop.letters.group("0123")
    monkeypatch.setattr("choreo.operate.which.is_id_of", lambda *_: True)
    with pytest.raises(DeadLetterError, match=f"several groups: {one.id}, {other.id}"):
        shop.letters.group(one.id)


def test_letters_of_an_older_choreo_are_grouped_with_the_others(shop):
    (letter,) = shop.fail(1)
    shop.stage.store.add_letter(CHARGE, "0123456789", letter.to_json().replace(letter.id, "0123456789"))

    (group,) = shop.letters.groups()

    assert group.count == 2
    assert shop.stage.store.unfiled(CHARGE) == []


def test_a_letter_that_this_version_cannot_read_has_a_group(shop):
    shop.stage.store.add_letter(CHARGE, "0123456789", '{"id": "0123456789", "odd": 1}')

    (group,) = shop.letters.groups()

    assert "this version cannot read it" in group.cause
    assert shop.letters.find(cause=group.id)[0].id == "0123456789"


def test_what_another_version_says_about_a_group_hides_no_other(shop):
    shop.fail(1)
    card = shop.stage.store.letters_about(CHARGE, "ORD-0")[0][1]
    shop.stage.store.add_letter(CHARGE, "0123456789", "{}", (), type(card)("f" * 16, "[]"))

    assert sorted(group.cause[:12] for group in shop.letters.groups()) == ["PermanentFai", "this version"]


def test_a_handler_whose_letters_cannot_be_read_hides_no_others(shop, monkeypatch, caplog):
    shop.fail(1)
    shop.fail(1, THANK)
    groups = shop.stage.store.letter_groups

    def refuse(handler, *given):
        if handler == CHARGE:
            raise StoreError("WRONGTYPE", is_outage=False)
        return groups(handler, *given)

    monkeypatch.setattr(shop.stage.store, "letter_groups", refuse)

    assert [group.handler for group in shop.letters.groups()] == [THANK]
    assert "the dead letters of payment.charge cannot be read" in caplog.text


# -- replaying -------------------------------------------------------------------------------------------------------


def test_a_group_is_replayed_and_each_event_is_handled_once(shop):
    shop.fail(30)
    shop.fail(2, THANK)
    shop.mended.add("charge")
    group = shop.letters.groups()[0]

    *_, last = shop.letters.replay_group(group.id, reason="the accounts are back", who="anna")

    assert (last.total, last.done, last.refused, last.again, last.ended, last.text) == (30, 30, 0, 0, True, "")
    shop.stage.pass_time(1)
    assert sorted(shop.handled) == sorted(f"ORD-{number}" for number in range(30))
    assert [letter.handler for letter in shop.letters] == [THANK] * 2
    (repair,) = shop.app.repairs.recent()
    assert (repair.action, repair.count, repair.who, repair.reason) == ("replayed", 30, "anna", "the accounts are back")
    assert repair.target == f"{group.id} {CHARGE}"


def test_the_canary_is_replayed_first_and_its_outcome_is_told(shop):
    shop.fail(3)
    shop.mended.add("charge")

    progress = shop.letters.replay_group(shop.letters.groups()[0].id, canary=True)
    told = next(told for told in progress if told.canary)

    assert (told.done, told.total, told.left) == (1, 3, 2)
    assert (told.canary.outcome, told.canary.text, told.canary.letter.subject) == ("done", "", "ORD-0")
    assert shop.handled == ["ORD-0"]
    progress.close()
    assert len(shop.letters.find()) == 2
    assert shop.app.repairs.recent()[0].count == 1


def test_a_canary_that_fails_again_is_told_with_its_error(shop):
    shop.fail(3)

    progress = shop.letters.replay_group(shop.letters.groups()[0].id, canary=True)
    told = next(told for told in progress if told.canary)

    assert told.canary.outcome == "failed"
    assert told.canary.text == "PermanentFailure: alice has no account for ORD-0"
    assert told.again == 1


def test_without_a_record_of_runs_the_canary_is_known_by_its_unit(shop, monkeypatch):
    shop.fail(2)
    shop.mended.add("charge")
    monkeypatch.setattr(shop.stage.store, "recent", lambda *_: [])

    progress = shop.letters.replay_group(shop.letters.groups()[0].id, canary=True)

    assert next(told for told in progress if told.canary).canary.outcome == "done"


def test_a_canary_that_fails_between_two_looks_has_failed(shop, monkeypatch):
    shop.fail(1)
    is_finished, store = shop.stage.store.is_finished, shop.stage.store

    def late(*unit):
        shop.stage.pass_time(1)
        return is_finished(*unit)

    monkeypatch.setattr(store, "is_finished", late)
    monkeypatch.setattr(group_replay, "sleep", lambda _: None)

    told = next(told for told in shop.letters.replay_group(shop.letters.groups()[0].id, canary=True) if told.canary)

    assert told.canary.outcome == "failed"


def test_a_canary_that_nobody_runs_is_unknown(shop, monkeypatch):
    shop.fail(2)
    monkeypatch.setattr(group_replay, "sleep", lambda _: None)
    monkeypatch.setattr(group_replay, "CANARY_SECONDS", 0.2)

    told = next(told for told in shop.letters.replay_group(shop.letters.groups()[0].id, canary=True) if told.canary)
    assert (told.canary.outcome, told.canary.text) == ("unknown", "its run has not ended within 0 s")

    shop.stage.store.declare("payment", "stage", (), 0)
    told = next(told for told in shop.letters.replay_group(shop.letters.groups()[0].id, canary=True) if told.canary)
    assert (told.canary.outcome, told.canary.text) == ("unknown", "no worker of payment runs at the moment")


def test_it_stops_by_itself_when_the_replayed_ones_fail_again(shop):
    shop.fail(40)

    *_, last = shop.letters.replay_group(shop.letters.groups()[0].id)

    assert last.ended
    assert last.text.startswith("10 of the 10 whose outcome is known have failed again: PermanentFailure: alice has")
    assert (last.done, last.again, last.left) == (10, 10, 30)
    assert len(shop.letters.find()) == 40


def test_letters_that_fail_again_meanwhile_are_not_replayed_once_more(shop, monkeypatch):
    shop.fail(30)
    monkeypatch.setattr(group_replay, "SHARE", 1.0)

    *_, last = shop.letters.replay_group(shop.letters.groups()[0].id)

    assert (last.done, last.again) == (30, 30)
    assert len(shop.letters.find()) == 30


def test_a_letter_that_comes_meanwhile_takes_no_place_of_one_that_is_gone(unattended):
    letters = unattended.fail(PAGE + 10)
    progress = unattended.letters.replay_group(unattended.letters.groups()[0].id)
    assert next(progress).done == 10
    unattended.letters.discard(letters[-1].id)
    unattended.fail(1, first=999)

    *_, last = progress

    assert last.done == PAGE + 9
    assert [letter.subject for letter in unattended.letters] == ["ORD-999"]


def test_it_ends_also_where_the_clocks_of_a_cluster_differ(shop, monkeypatch):
    shop.fail(PAGE + 10)
    now = shop.stage.store.now
    monkeypatch.setattr(shop.stage.store, "now", lambda: now() + 60)
    monkeypatch.setattr(group_replay, "SHARE", 1.0)

    *_, last = shop.letters.replay_group(shop.letters.groups()[0].id)

    assert last.done == PAGE + 10


def test_a_few_that_fail_again_do_not_stop_it(shop):
    shop.fail(9)

    *_, last = shop.letters.replay_group(shop.letters.groups()[0].id)

    assert (last.done, last.again, last.text) == (9, 9, "")


def test_the_run_that_made_the_letter_is_not_the_outcome_of_its_replay(shop):
    shop.fail(1)
    shop.mended.add("charge")

    told = next(told for told in shop.letters.replay_group(shop.letters.groups()[0].id, canary=True) if told.canary)

    assert told.canary.outcome == "done"


def test_a_rate_is_kept_by_the_clock(unattended, monkeypatch):
    unattended.fail(30)
    clock, times = [1000.0], []
    monkeypatch.setattr(group_replay, "monotonic", lambda: clock[0])
    monkeypatch.setattr(group_replay, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    for told in unattended.letters.replay_group(unattended.letters.groups()[0].id, rate=20):
        times.append((clock[0] - 1000.0, told.done))

    assert times[-1][1] == 30
    assert all(done <= 5 + 20 * passed + 0.01 for passed, done in times)
    assert 1.2 < times[-1][0] < 1.6
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(times)) <= 0.5


def test_two_replays_side_by_side_share_the_letters(unattended):
    unattended.fail(50)
    group = unattended.letters.groups()[0].id
    one, other = unattended.letters.replay_group(group), unattended.letters.replay_group(group)

    done = [0, 0]
    for first, second in zip(one, other, strict=False):
        done = [first.done, second.done]
    *_, last = [SimpleNamespace(done=done[1]), *other]

    unattended.mended.add("charge")
    unattended.stage.pass_time(1)
    assert sorted(unattended.handled) == sorted(f"ORD-{number}" for number in range(50))
    assert sum(repair.count for repair in unattended.app.repairs.recent()) == 50
    assert last.done < 50


def test_an_interrupted_replay_goes_on_with_the_same_words(unattended):
    unattended.fail(30)
    group = unattended.letters.groups()[0].id
    progress = unattended.letters.replay_group(group)
    assert next(progress).done == 10
    progress.close()

    *_, last = unattended.letters.replay_group(group)

    assert (last.total, last.done) == (20, 20)
    unattended.mended.add("charge")
    unattended.stage.pass_time(1)
    assert len(unattended.handled) == 30
    assert [repair.count for repair in unattended.app.repairs.recent()] == [20, 10]


def test_letters_are_replayed_by_choice_and_by_name(unattended):
    letters = unattended.fail(5)
    unattended.fail(2, THANK)

    *_, last = unattended.letters.replay_group(cause="ValueError")
    assert (last.done, unattended.app.repairs.recent()[0].target) == (2, "all handlers ValueError")
    *_, last = unattended.letters.replay_group(letters[0].id, letters[1].id, "nonesuch")
    assert (last.done, last.total) == (2, 2)
    *_, last = unattended.letters.replay_group(unattended.letters.groups()[0].id, subject="ORD-3")
    assert (last.done, last.total) == (1, 1)
    assert [letter.subject for letter in unattended.letters] == ["ORD-2", "ORD-4"]


def test_what_was_named_and_is_not_there_is_told(unattended):
    unattended.fail(1)

    told = list(unattended.letters.replay_group("nonesuch", "0123", unattended.letters.groups()[0].id))

    errors = [error for one in told for error in one.errors]
    assert [error[:30] for error in errors] == ["There is no dead letter 'nones", "There is no group of dead lett"]
    assert told[-1].done == 1


def test_the_id_of_a_group_in_place_of_a_letters_is_told(shop):
    shop.fail(1)
    group = shop.letters.groups()[0].id

    with pytest.raises(DeadLetterError, match=f"It is a group: `choreo dead-letters list --cause {group}`"):
        shop.letters.get(group)


def test_a_replay_of_everything_must_be_chosen(unattended):
    with pytest.raises(DeadLetterError, match="Name a group or a letter"):
        unattended.letters.replay_group()
    with pytest.raises(DeadLetterError, match="Name a group or a letter"):
        unattended.letters.discard_group()


def test_a_refused_letter_keeps_no_other_from_its_way(unattended):
    letters = unattended.fail(2)
    broken = letters[0].to_json().replace(letters[0].id, "0123456789").replace('"attempts"', '"odd"')
    unattended.stage.store.add_letter(CHARGE, "0123456789", broken)

    told = list(unattended.letters.replay_group(names=[CHARGE]))

    assert (told[-1].done, told[-1].refused) == (2, 1)
    assert "cannot be replayed by this version" in told[0].errors[0]
    assert [letter.id for letter in unattended.letters] == ["0123456789"]


def test_a_group_goes_to_another_handler(shop):
    shop.fail(3)
    done: list[str] = []

    @shop.app.on(OrderPlaced)
    def bill(order: OrderPlaced) -> None:
        done.append(order.meta.subject)

    shop.stage.pass_time(0)

    *_, last = shop.letters.replay_group(shop.letters.groups()[0].id, to="payment.bill", canary=True)

    shop.stage.pass_time(1)
    assert (last.done, sorted(done)) == (3, ["ORD-0", "ORD-1", "ORD-2"])
    assert shop.letters.find() == []


def test_a_store_that_goes_away_ends_it_and_what_is_done_is_noted(unattended, monkeypatch):
    unattended.fail(30)
    replay_all = unattended.stage.store.replay_all
    calls: list[int] = []

    def refuse(*given):
        calls.append(1)
        if len(calls) == 2:
            raise StoreError("it is away")
        return replay_all(*given)

    monkeypatch.setattr(unattended.stage.store, "replay_all", refuse)

    with pytest.raises(StoreError):
        list(unattended.letters.replay_group(unattended.letters.groups()[0].id))

    assert unattended.app.repairs.recent()[0].count == 10
    assert len(unattended.letters.find()) == 20


# -- discarding ------------------------------------------------------------------------------------------------------


def test_a_group_is_discarded_with_a_note(shop):
    shop.fail(3)
    shop.fail(1, THANK)
    group = shop.letters.groups()[0]

    *_, last = shop.letters.discard_group(group.id, reason="test orders", who="anna")

    assert (last.done, last.total, last.ended) == (3, 3, True)
    assert [letter.handler for letter in shop.letters] == [THANK]
    repair = shop.app.repairs.recent()[0]
    assert (repair.action, repair.target, repair.count, repair.reason) == (
        "discarded",
        f"{group.id} {CHARGE}",
        3,
        "test orders",
    )


def test_one_replayed_or_discarded_letter_is_noted(shop):
    first, second = shop.fail(2)

    shop.letters.replay(first.id, reason="mended")
    shop.letters.discard(second.id, who="anna")

    discarded, replayed = shop.app.repairs.recent()
    assert (discarded.action, discarded.target, discarded.who) == ("discarded", f"{second.id} {CHARGE}", "anna")
    assert (replayed.action, replayed.target, replayed.reason) == ("replayed", f"{first.id} {CHARGE}", "mended")


def test_several_letters_of_one_join_are_replayed_one_after_the_other(monkeypatch):
    app, is_mended = service("library"), False

    @app.join(OrderPlaced, PaymentCharged, rounds=True, retry=Retry(times=0))
    def settle(placed: OrderPlaced, charged: PaymentCharged) -> None:
        if not is_mended:
            raise PermanentFailure("no ledger")

    stage = Stage(app)
    monkeypatch.setattr(group_replay, "sleep", stage.pass_time)
    for number in range(2):
        for part in OrderPlaced(customer_id="alice"), PaymentCharged():
            event = envelope(part, subject="ORD-1", id=f"{part.event_type}-{number}")
            stage.deliver(event, "library.settle")
        stage.run()
    first, second = stage.dead_letters
    assert first.unit == second.unit
    is_mended = True

    told = list(app.dead_letters.replay_group(names=["library"]))

    assert (told[-1].done, told[-1].refused, told[-1].again) == (1, 1, 0)
    assert second.id in told[0].errors[0]
    stage.run()
    assert [progress.done for progress in app.dead_letters.replay_group(names=["library"])][-1] == 1
    stage.run()
    assert stage.dead_letters == []


def test_a_letter_that_another_process_replays_meanwhile_is_not_called_discarded(unattended, monkeypatch):
    (letter,) = unattended.fail(1)
    store = unattended.stage.store
    discard = store.discard

    def discard_too_late(handler, letter_id):
        unattended.letters.replay(letter_id)
        return discard(handler, letter_id)

    monkeypatch.setattr(store, "discard", discard_too_late)

    with pytest.raises(DeadLetterError, match="has just been replayed or discarded"):
        unattended.letters.discard(letter.id)
    assert [one.action for one in unattended.app.repairs.recent()] == ["replayed"]


def test_handlers_without_letters_are_asked_nothing(shop, monkeypatch):
    shop.fail(1)
    (letter,) = shop.letters
    store, asked = shop.stage.store, set()
    store.register([f"payment.idle_{number}" for number in range(100)])
    for name in ("unfiled", "letter_groups", "letter_places", "letter_texts", "letter_count", "letter"):
        ask = getattr(store, name)
        monkeypatch.setattr(store, name, lambda handler, *rest, ask=ask: asked.add(handler) or ask(handler, *rest))

    shop.letters.groups()
    shop.letters.page()
    shop.letters.get(letter.id)
    shop.letters.count()
    shop.letters.plan(letter.id)

    assert asked == {CHARGE}
