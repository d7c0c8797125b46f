"""The examples in the documentation: bodies that can be posted, and what answers look like.

The bodies use the operations that every application has; posted one after the other to an empty
book they do what the answers say.
"""

from __future__ import annotations

from typing import Any

Example = dict[str, Any]

EARLIER = "2025-02-13T00:00:00Z"
_NOW = "2025-02-13T21:07:11.070112Z"
_LATER = "2025-02-20T21:07:11.070112Z"

POST_BODY: Example = {
    "operation": "SIGNUP_CREDIT",
    "owner_id": "user1",
    "nonce": "2025-02-13T21:07:11.064Z",
}
ENTRY: Example = {
    "id": 1,
    "app": "shared",
    "operation": "SIGNUP_CREDIT",
    "owner_id": "user1",
    "counterparty": "@issued",
    "asset": "credits",
    "amount": 3,
    "balance_after": 3,
    "nonce": "2025-02-13T21:07:11.064Z",
    "created_on": _NOW,
    "period": "ever",
    "replayed": False,
}
LINE: Example = {name: value for name, value in ENTRY.items() if name != "replayed"}
BATCH_BODY: Example = {
    "entries": [
        {
            "operation": "CREDIT_ADD",
            "owner_id": "user1",
            "nonce": "campaign 7, user1",
            "expires_in": 2_592_000,
            "priority": 1,
            "metadata": {"campaign": 7},
        },
        {"operation": "CREDIT_SPEND", "owner_id": "user2", "nonce": "article 12, user2"},
    ],
    "atomic": False,
}
SHORT: Example = {
    "type": "urn:shared-ledger:problem:insufficient_credits",
    "title": "Insufficient credits",
    "status": 402,
    "detail": "user2 has 0 credits available, 1 required",
    "owner_id": "user2",
    "asset": "credits",
    "available": 0,
    "required": 1,
}
GROUP_BODY: Example = {
    "nonce": "order 31",
    "entries": [
        {"operation": "CREDIT_SPEND", "owner_id": "user1"},
        {"operation": "CREDIT_ADD", "owner_id": "user2", "metadata": {"order": 31}},
    ],
}


def _entry(entry_id: int, operation: str, amount: int, balance_after: int, **more: Any) -> Example:
    return (
        LINE
        | {"id": entry_id, "operation": operation, "amount": amount}
        | {"balance_after": balance_after, "period": None}
        | more
    )


def _without_nothing(entry: Example) -> Example:
    return {name: value for name, value in entry.items() if value is not None}


def _entries(*entries: Example) -> Example:
    return {"entries": [_without_nothing(entry) for entry in entries], "replayed": False}


GROUPED = _entries(
    _entry(4, "CREDIT_SPEND", -1, 2, counterparty="@spent", nonce="order 31", group_id=4),
    _entry(5, "CREDIT_ADD", 10, 10, owner_id="user2", nonce="@4.1", group_id=4),
)
TRANSFER_BODY: Example = {
    "source": "user1",
    "destination": "user2",
    "amount": 2,
    "nonce": "gift 8",
    "metadata": {"note": "thank you"},
}
_GIFT: Example = {
    "counterparty": "@transfers",
    "group_id": 6,
    "metadata": TRANSFER_BODY["metadata"],
}
TRANSFERRED = _entries(
    _entry(6, "TRANSFER", -2, 1, nonce="gift 8", **_GIFT),
    _entry(7, "TRANSFER", 2, 12, owner_id="user2", nonce="@6.1", **_GIFT),
)
REVERSE_BODY: Example = {"nonce": "sign-up of user1 was fraud", "amount": 1, "allow_debt": True}
REVERSED = _entries(_entry(8, "REVERSAL", -1, 0, nonce=REVERSE_BODY["nonce"], reverses=1))
QUOTE_BODY: Example = {"operation": "CREDIT_SPEND", "owner_id": "user1", "nonce": "article 13"}
BALANCE_NOW: Example = {
    "owner_id": "user1",
    "balance": 13,
    "available": 12,
    "held": 1,
    "asset": "credits",
    "expiring": 10,
    "debt": 0,
}
QUOTED: Example = {
    "replayed": False,
    "entries": [
        _without_nothing(
            _entry(1, "CREDIT_SPEND", -1, 12, counterparty="@spent", nonce="article 13")
        )
    ],
    "balance": BALANCE_NOW | {"balance": 12, "available": 11, "expiring": 9},
    "burns": [{"grant_id": 1, "amount": 1, "expires_on": _LATER}],
}
PLACE_BODY: Example = {
    "owner_id": "user1",
    "operation": "CREDIT_SPEND",
    "amount": 1,
    "nonce": "order 32",
    "expires_in": 604_800,
}
HELD: Example = {
    "id": 9,
    "app": "shared",
    "operation": "CREDIT_SPEND",
    "owner_id": "user1",
    "counterparty": "@spent",
    "asset": "credits",
    "amount": 1,
    "nonce": "order 32",
    "created_on": _NOW,
    "expires_on": _LATER,
    "captured": 0,
    "state": "open",
    "closed_on": None,
    "remaining": 1,
    "replayed": False,
}
CAPTURE_BODY: Example = {"nonce": "order 32 is shipped", "amount": 1, "final": True}
CAPTURED: Example = _without_nothing(
    _entry(10, "CREDIT_SPEND", -1, 12, counterparty="@spent", nonce=CAPTURE_BODY["nonce"])
) | {"hold_id": 9, "replayed": False}
RELEASE_BODY: Example = {"nonce": "order 32 is cancelled"}
RELEASED: Example = HELD | {"state": "released", "closed_on": _NOW, "remaining": 0}
GRANT: Example = {
    "id": 1,
    "entry_id": 2,
    "app": "shared",
    "owner_id": "user1",
    "asset": "credits",
    "amount": 10,
    "remaining": 10,
    "priority": 1,
    "granted_on": _NOW,
    "expires_on": _LATER,
    "expired": 0,
}
STATEMENT_NOW: Example = {
    "owner_id": "user1",
    "asset": "credits",
    "from": "2025-02-01T00:00:00Z",
    "to": "2025-03-01T00:00:00Z",
    "opening": 0,
    "closing": 3,
    "lines": [LINE],
    "totals": [{"app": "shared", "operation": "SIGNUP_CREDIT", "count": 1, "amount": 3}],
}
STATEMENT_CSV = (
    "created_on,effective_on,id,app,operation,amount,balance_after,nonce\r\n"
    ",2025-02-01T00:00:00Z,,,opening,,0,\r\n"
    f"{_NOW},{_NOW},1,shared,SIGNUP_CREDIT,3,3,{POST_BODY['nonce']}\r\n"
    ",2025-03-01T00:00:00Z,,,closing,,3,\r\n"
)
