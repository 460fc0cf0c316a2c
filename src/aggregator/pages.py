"""The pages (being written)."""

from fastapi import APIRouter

from aggregator.api import PrincipalOf
from aggregator.reader import Reader


def router(reader: Reader, principal: PrincipalOf) -> APIRouter:
    return APIRouter()
