"""How patient the proof is, and how much it says. Times are in seconds; prefix `BROKAGE_RECONCILE_`."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """`grace_seconds`: what should be at rest counts as broken once it stood unchanged for so long. `delivery_seconds`: an
    older batch that heads its lane and does not move is stuck. `overdue_seconds`: how long after its deadline a saga may
    still wait, because it is sent again a few times by itself."""

    model_config = SettingsConfigDict(env_prefix="BROKAGE_RECONCILE_", extra="ignore", frozen=True)

    grace_seconds: float = 5.0
    delivery_seconds: float = 30.0
    overdue_seconds: float = 60.0
    findings_max: int = 20
