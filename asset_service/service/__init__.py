"""Use cases of asset_service."""
