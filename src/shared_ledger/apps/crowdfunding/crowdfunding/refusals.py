"""Why a campaign cannot be found, or given to."""

from __future__ import annotations

from http import HTTPStatus

from shared_ledger.service import ServiceRefusal


class CampaignNotFound(ServiceRefusal):
    """There is no such campaign."""

    status = HTTPStatus.NOT_FOUND
    code = "campaign_not_found"

    def __init__(self, campaign_id: str) -> None:
        self.campaign_id = campaign_id

    def __str__(self) -> str:
        return f"there is no campaign {self.campaign_id}"


class CampaignOver(ServiceRefusal):
    """The campaign takes no more donations."""

    code = "campaign_over"

    def __init__(self, campaign_id: str, *, state: str) -> None:
        self.campaign_id = campaign_id
        self.state = state

    def __str__(self) -> str:
        return f"the campaign {self.campaign_id} takes no more donations"


class OwnCampaign(ServiceRefusal):
    """Nobody donates to his own campaign."""

    code = "own_campaign"

    def __init__(self, campaign_id: str) -> None:
        self.campaign_id = campaign_id

    def __str__(self) -> str:
        return "nobody donates to his own campaign"


class DonationRefused(ServiceRefusal):
    """The donor cannot pay this; ``reason`` is the code of the ledger's refusal."""

    status = HTTPStatus.PAYMENT_REQUIRED
    code = "donation_rejected"

    def __init__(self, donation_id: str, reason: str) -> None:
        self.donation_id = donation_id
        self.reason = reason

    def __str__(self) -> str:
        if self.reason == "insufficient_credits":
            return "the balance does not cover the donation: deposit first, and use another key"
        return f"the donation was rejected: {self.reason}"
