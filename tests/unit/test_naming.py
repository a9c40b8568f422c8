"""A class name says what happened; a command in disguise is refused, with the name it should have."""

import pytest

from choreo.errors import DeclarationError, EventNameError
from choreo.events import naming


@pytest.mark.parametrize(
    ("class_name", "event_type"),
    [
        ("OrderPlaced", "order.placed"),
        ("OrderConfirmedByRestaurant", "order.confirmed_by_restaurant"),
        ("PaymentCharged", "payment.charged"),
        ("HTTPRequestSent", "http.request_sent"),
        ("UserSignedUpV2", "user.signed_up_v2"),
        ("Order66Executed", "order66.executed"),
        ("EmailAddressLeft", "email.address_left"),
    ],
)
def test_the_first_word_is_the_noun_and_the_rest_says_what_happened(class_name, event_type):
    assert naming.type_of(class_name) == event_type


def test_a_name_of_one_word_is_refused_with_two_ways_out():
    with pytest.raises(DeclarationError, match=r'Placed does not say .* like OrderPlaced.* type="order.placed"'):
        naming.type_of("Placed")


def test_a_name_without_any_word_is_refused_like_any_other_bad_name():
    with pytest.raises(DeclarationError, match="does not say what it happened to"):
        naming.type_of("_")


@pytest.mark.parametrize(
    "class_name",
    [
        "OrderPlaced", "OrderConfirmedByRestaurant", "DriverAssigned", "BillPaid", "SeatSold", "MessageRead",
        "CustomerForgotten", "AccountOverdrawn", "InvoiceSent", "ChargeDisputed", "ReleaseWithdrawn",
        "StockReplenished", "GiftCardSentByPost", "RefundIssued", "MealBroughtBack", "ThresholdExceeded",
        "StockRanOut", "PriceRose", "WaterLevelFell", "CourseBegan", "TitleChosen", "FeeOverpaid",
    ],
)  # fmt: skip
def test_a_fact_in_the_past_tense_is_accepted(class_name):
    naming.check_fact(class_name, naming.words_of(class_name))


@pytest.mark.parametrize(
    "class_name",
    [
        "VoteCast", "TableLaid", "PlayerQuit", "CardDealt", "PriceShown", "FlatLet", "AlarmHeard", "DebtForgiven",
        "MealEaten", "ProfitShrunk", "WillSworn", "LampLit", "ParcelStuck", "TreasureSought",
    ],
)  # fmt: skip
def test_an_irregular_participle_is_one_too(class_name):
    naming.check_fact(class_name, naming.words_of(class_name))


@pytest.mark.parametrize(
    "class_name",
    [
        "CopyMissing", "PaymentOverdue", "ItemBackInStock", "ArticleOutOfStock", "OrderReady", "OrderIsReady",
        "StockLow", "TrialWillEnd", "StockBelowMinimum", "CardExpiring", "OrderOnHold", "NodeNotReachable", "LightsOff",
        "PullRequestReadyForReview", "TransferPending",
    ],
)  # fmt: skip
def test_what_a_thing_is_is_a_fact_too(class_name):
    naming.check_fact(class_name, naming.words_of(class_name))


@pytest.mark.parametrize(
    "class_name",
    [
        "RetryFailedPayment", "CloseAllExpiredSessions", "PlaceBookOnHold", "CheckInGuest", "SetDeviceOffline",
        "UserSignUp", "EnsureOrderIsPaid", "CheckIfOrderIsPaid", "TestRun",
    ],
)  # fmt: skip
def test_a_command_about_a_thing_that_is_so_is_a_command(class_name):
    with pytest.raises(EventNameError):
        naming.check_fact(class_name, naming.words_of(class_name))


def test_the_word_event_is_left_out_of_a_name_and_the_error_gives_the_name_and_the_type():
    with pytest.raises(EventNameError) as caught:
        naming.check_fact("OrderPlacedEvent", naming.words_of("OrderPlacedEvent"))

    assert caught.value.suggestion == "OrderPlaced"
    assert "Name it OrderPlaced" in str(caught.value)
    assert 'class OrderPlacedEvent(Event, type="order.placed")' in str(caught.value)


def test_a_command_that_ends_in_event_is_refused_as_a_command():
    with pytest.raises(EventNameError, match=r"reads like a command.*did you mean OrderPlaced"):
        naming.check_fact("PlaceOrderEvent", naming.words_of("PlaceOrderEvent"))


def test_a_type_that_is_given_may_end_in_event():
    naming.check_fact("CalendarEntry", ["calendar", "created", "event"])


@pytest.mark.parametrize("class_name", ["TermsAgreed", "PaymentGuaranteed", "HostageFreed"])
def test_a_participle_in_eed_is_a_participle(class_name):
    naming.check_fact(class_name, naming.words_of(class_name))


@pytest.mark.parametrize(
    ("command", "fact"),
    [
        ("ChargePayment", "PaymentCharged"),
        ("SendEmail", "EmailSent"),
        ("PlaceOrder", "OrderPlaced"),
        ("OrderPlace", "OrderPlaced"),
        ("ShipOrder", "OrderShipped"),
        ("NotifyCustomer", "CustomerNotified"),
        ("AssignDriver", "DriverAssigned"),
        ("CreateGiftCard", "GiftCardCreated"),
        ("PayBill", "BillPaid"),
        ("CancelOrder", "OrderCanceled"),
        ("BookTable", "TableBooked"),
        ("DeliverFeed", "FeedDelivered"),
        ("SendConfirmedOrder", "OrderSent"),
        ("PaymentCharge", "PaymentCharged"),
        ("FetchPrices", "PricesFetched"),
        ("ComputeTotals", "TotalsComputed"),
        ("FailedPayment", "PaymentFailed"),
    ],
)
def test_a_command_in_disguise_is_refused_with_the_fact_it_should_be(command, fact):
    with pytest.raises(EventNameError) as caught:
        naming.check_fact(command, naming.words_of(command))

    assert caught.value.suggestion == fact
    assert f"did you mean {fact}?" in str(caught.value)
    assert f"class {command}(Event, fact=True)" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "UserLogin", "ShipOrderNow", "OrderFood", "SendEmailToCustomer",
    ],
)  # fmt: skip
def test_where_there_is_no_telling_what_was_meant_no_word_is_made_up(name):
    with pytest.raises(EventNameError) as caught:
        naming.check_fact(name, naming.words_of(name))

    assert caught.value.suggestion is None
    assert "did you mean" not in str(caught.value)
    assert f"{name} does not say in the past tense what has happened. Name it like OrderPlaced." in str(caught.value)
    assert f"class {name}(Event, fact=True)" in str(caught.value)


@pytest.mark.parametrize("command", ["ChargePayment", "SendEmail", "ShipOrder", "PayBill", "CreateGiftCard"])
def test_what_is_suggested_would_be_accepted(command):
    with pytest.raises(EventNameError) as caught:
        naming.check_fact(command, naming.words_of(command))

    suggestion = caught.value.suggestion
    naming.check_fact(suggestion, naming.words_of(suggestion))


@pytest.mark.parametrize("event_type", ["order.placed", "order.confirmed_by_restaurant", "a.b.c", "v2.order_placed"])
def test_a_type_is_lower_case_words_with_dots(event_type):
    naming.check_type(event_type)


@pytest.mark.parametrize("bad", ["order", "Order.placed", "order.", ".placed", "order placed", "order.*", "", 5, None])
def test_any_other_type_is_refused_with_an_example(bad):
    with pytest.raises(DeclarationError, match=r'is not an event type.*"order\.placed"'):
        naming.check_type(bad)


@pytest.mark.parametrize("pattern", ["order.placed", "order.*", "*.placed", "order.#", "#", "*"])
def test_a_pattern_has_stars_and_hashes_for_words(pattern):
    naming.check_pattern(pattern)


@pytest.mark.parametrize("bad", ["order.", "order*", "Order.*", "order.**", "", "order.placed "])
def test_any_other_pattern_is_refused_with_examples(bad):
    with pytest.raises(DeclarationError, match=r'"order\.\*" \(one word\)'):
        naming.check_pattern(bad)


@pytest.mark.parametrize("event_type", ["order", "", "order placed"])
def test_a_bad_type_is_named_as_it_was_written(event_type):
    with pytest.raises(DeclarationError, match=repr(event_type)):
        naming.check_type(event_type)
