"""Logging in where clients of OAuth 2 look for it; registering is the service's own route."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from shared_ledger.apps.crowdfunding.common.site import NOT_RUN_HERE, run_by
from shared_ledger.service import OPEN, RightsTable
from shared_ledger.service.access_documentation import LOG_IN
from shared_ledger.service.users import answer_token

RIGHTS: RightsTable = {("POST", "/token"): OPEN}

router = APIRouter(tags=["users"], dependencies=[run_by("auth")], responses=NOT_RUN_HERE)


@router.post("/token", response_class=Response, openapi_extra=LOG_IN)
async def get_token(request: Request) -> Response:
    """Log in: a form with `username` and `password` is answered with a bearer token."""
    return await answer_token(request)
