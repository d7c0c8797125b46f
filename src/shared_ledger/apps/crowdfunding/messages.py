"""Every conversation between the contexts, on one page.

Amounts are in msat, times in UTC. A command asks one context to do something; an event tells all
that something has happened. ``key`` names whose order a message belongs to.

::

    auth          RegisterAccount ──▶ SignupEvent
    accounting    SignupEvent ──▶ AccountOpened
                  RequestTransfer ──▶ TransferSucceededEvent or TransferRejectedEvent
                  RequestRefunds ──▶ RefundsMade
                  DepositReceived ──▶ DepositCredited
                  RequestReservation ──▶ ReservationMade or ReservationRefused
                  WithdrawalPaid ──▶ ReservationCaptured
                  WithdrawalFailed ──▶ ReservationReleased
                  and for whatever is posted: EntriesPosted
    bitcoin       an invoice is paid ──▶ DepositReceived; DepositCredited ends it
                  RequestWithdrawal ──▶ RequestReservation; ReservationMade, the node pays
                  ──▶ WithdrawalPaid or WithdrawalFailed; what accounting then did ends it
    crowdfunding  CreateCampaign ──▶ CampaignCreated
                  DonateToCampaign ──▶ RequestTransfer; TransferSucceededEvent
                  ──▶ DonationRegistered, TransferRejectedEvent ──▶ DonationRejected
                  the deadline ──▶ RequestTransfer to the creator, or RequestRefunds to the donors
                  ──▶ CampaignClosed
    dashboard     AccountOpened, EntriesPosted, CampaignCreated, DonationRegistered,
                  CampaignClosed ──▶ what people see
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from shared_ledger.messages import Command, Event

# --- auth ---


class RegisterAccount(Command, key="account_id"):
    """Let a user who has registered take part; the account's id is his name."""

    account_id: str
    username: str


class SignupEvent(Event, key="account_id"):
    """A user takes part."""

    account_id: str
    username: str
    registered_on: datetime


# --- accounting ---


class AccountOpened(Event, key="account_id"):
    """An account can be credited."""

    account_id: str
    username: str


class RequestTransfer(Command, key="idempotency_key"):
    """Move an amount from one account to another, once for each ``idempotency_key``.

    ``metadata`` comes back with the answer.
    """

    idempotency_key: str
    purpose: Literal["donation", "payout"]
    from_account_id: str
    to_account_id: str
    amount: int
    metadata: dict[str, str]


class TransferSucceededEvent(Event, key="idempotency_key"):
    """The amount is on the other account."""

    idempotency_key: str
    from_account_id: str
    to_account_id: str
    amount: int
    metadata: dict[str, str]


class TransferRejectedEvent(Event, key="idempotency_key"):
    """Nothing was moved; ``reason`` is the code of the ledger's refusal."""

    idempotency_key: str
    from_account_id: str
    to_account_id: str
    amount: int
    metadata: dict[str, str]
    reason: str


class Refund(msgspec.Struct, frozen=True):
    """What one donor gets back for one donation."""

    donation_id: str
    account_id: str
    amount: int


class RequestRefunds(Command, key="batch_id"):
    """Give donors back what they gave to a campaign, all of the batch or none."""

    batch_id: str
    campaign_id: str
    from_account_id: str
    refunds: list[Refund]


class RefundsMade(Event, key="batch_id"):
    """The donors of a batch have their money again."""

    batch_id: str
    campaign_id: str
    donation_ids: list[str]


class PostedEntry(msgspec.Struct, frozen=True):
    """An entry of somebody's account: ``amount`` is signed, ``balance`` is what he has after it."""

    entry_id: int
    account_id: str
    operation: str
    amount: int
    balance: int
    created_on: datetime


class EntriesPosted(Event, key="posting_id"):
    """What one posting has changed of people's accounts.

    ``about`` names what it was for: a campaign, or an invoice by its payment hash.
    """

    posting_id: str
    about: str
    entries: list[PostedEntry]


# --- bitcoin ---


class DepositReceived(Event, key="payment_hash"):
    """Somebody paid an account's invoice; ``amount`` is what was received."""

    payment_hash: str
    account_id: str
    amount: int


class DepositCredited(Event, key="payment_hash"):
    """What was received is on the account."""

    payment_hash: str
    account_id: str
    amount: int


class RequestWithdrawal(Command, key="payment_hash"):
    """Pay an invoice from an account, at most for this fee."""

    payment_hash: str
    account_id: str
    amount: int
    max_fee: int


class RequestReservation(Command, key="payment_hash"):
    """Reserve what a withdrawal may cost."""

    payment_hash: str
    account_id: str
    amount: int
    max_fee: int


class ReservationMade(Event, key="payment_hash"):
    """The amount and the highest fee are reserved until the withdrawal's end."""

    payment_hash: str


class ReservationRefused(Event, key="payment_hash"):
    """Nothing is reserved; ``reason`` is the code of the ledger's refusal."""

    payment_hash: str
    reason: str


class WithdrawalPaid(Event, key="payment_hash"):
    """The node has paid the invoice, for this fee."""

    payment_hash: str
    fee: int


class WithdrawalFailed(Event, key="payment_hash"):
    """The node has not paid the invoice, and never will."""

    payment_hash: str
    reason: str


class ReservationCaptured(Event, key="payment_hash"):
    """The amount and the fee are taken from the account; the rest is free again."""

    payment_hash: str


class ReservationReleased(Event, key="payment_hash"):
    """All that was reserved is free again."""

    payment_hash: str


# --- crowdfunding ---

CampaignKind = Literal["keep_it_all", "all_or_nothing"]
Outcome = Literal["succeeded", "failed", "ended"]


class CreateCampaign(Command, key="campaign_id"):
    """Begin to collect for a goal until a deadline."""

    campaign_id: str
    creator_id: str
    creator_username: str
    title: str
    description: str
    goal: int
    deadline: datetime
    kind: CampaignKind


class CampaignCreated(Event, key="campaign_id"):
    """A campaign can be donated to."""

    campaign_id: str
    creator_id: str
    title: str
    goal: int
    deadline: datetime
    kind: CampaignKind


class DonateToCampaign(Command, key="idempotency_key"):
    """Give an amount to a campaign, once for each of the donor's idempotency keys."""

    idempotency_key: str
    donor_id: str
    campaign_id: str
    amount: int


class DonationRegistered(Event, key="campaign_id"):
    """A donation counts; ``total_raised`` is what the campaign has with it."""

    campaign_id: str
    donation_id: str
    donor_id: str
    amount: int
    total_raised: int


class DonationRejected(Event, key="donation_id"):
    """A donation could not be paid."""

    donation_id: str
    campaign_id: str
    donor_id: str
    reason: str


class CampaignClosed(Event, key="campaign_id"):
    """A campaign has ended, and everybody has what is his.

    ``succeeded`` reached its goal, ``failed`` gave all back, ``ended`` kept what there was.
    """

    campaign_id: str
    outcome: Outcome
    total_raised: int
