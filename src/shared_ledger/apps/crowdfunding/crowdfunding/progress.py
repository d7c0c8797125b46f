"""A campaign's progress as server-sent events (WHATWG HTML, 9.2).

Those who follow campaigns do not look at the database themselves: one task of the process looks for
all of them, at all campaigns that are followed, in one query.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.common.due import repeat
from shared_ledger.apps.crowdfunding.crowdfunding.queries import (
    CampaignView,
    view_these_campaigns_query,
)

LOOK_EVERY_S = 0.5
# What stands between must not take silence for an end.
SPEAK_EVERY_S = 15
STILL_HERE = ": still here\n\n"
NAME = "following campaigns"


async def events_of(
    engine: AsyncEngine,
    campaign: CampaignView,
    text_of: Callable[[CampaignView], str],
    *,
    leaving: Callable[[], bool],
) -> AsyncIterator[str]:
    """Give an event at first and after each change, until the campaign is over, or we leave."""
    with _following(engine, campaign) as followed:
        shown: CampaignView | None = None
        spoken = time.monotonic()
        while not (leaving() or (shown and shown.is_over)):
            # Taken before the look, so that no change is missed in between.
            changed = followed.changed
            if shown is None or followed.seen.version > shown.version:
                shown = followed.seen
                spoken = time.monotonic()
                yield f"event: campaign\ndata: {text_of(shown)}\n\n"
                continue
            if time.monotonic() - spoken >= SPEAK_EVERY_S:
                spoken = time.monotonic()
                yield STILL_HERE
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_EVERY_S, SPEAK_EVERY_S)):
                    await changed.wait()


class _Followed:
    """A campaign that somebody follows, as it was seen last; ``changed`` is set at its change."""

    def __init__(self, seen: CampaignView) -> None:
        self.seen = seen
        self.changed = asyncio.Event()
        self.followers = 0

    def see(self, seen: CampaignView) -> None:
        """Tell those who follow it, if it has changed."""
        if seen.version > self.seen.version:
            self.seen = seen
            self.changed.set()
            self.changed = asyncio.Event()


_looking: dict[AsyncEngine, tuple[asyncio.Task[None], dict[str, _Followed]]] = {}
"""For each database the task that looks, and at what: for as long as somebody follows."""


@contextmanager
def _following(engine: AsyncEngine, campaign: CampaignView) -> Iterator[_Followed]:
    """Have a campaign looked at while the block runs."""
    if engine not in _looking:
        campaigns: dict[str, _Followed] = {}
        look = partial(_look, engine, campaigns)
        looks = repeat(NAME, [look], every_s=LOOK_EVERY_S)
        _looking[engine] = asyncio.create_task(looks, name=NAME), campaigns
    task, campaigns = _looking[engine]
    followed = campaigns.setdefault(campaign.campaign_id, _Followed(campaign))
    followed.see(campaign)
    followed.followers += 1
    try:
        yield followed
    finally:
        followed.followers -= 1
        if not followed.followers:
            del campaigns[campaign.campaign_id]
        if not campaigns:
            del _looking[engine]
            task.cancel()


async def _look(engine: AsyncEngine, campaigns: dict[str, _Followed]) -> bool:
    """Look at all that are followed; it is never at once that there is more to do."""
    for seen in await view_these_campaigns_query(engine, list(campaigns)):
        # Whoever followed it may have gone meanwhile.
        if followed := campaigns.get(seen.campaign_id):
            followed.see(seen)
    return False
