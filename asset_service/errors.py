"""What asset_service refuses, named as facts."""

from shared.errors import Conflict, FieldError, ValidationFailed


class InsufficientFunds(ValidationFailed):
    """The customer's usable size of this asset is smaller than the amount. What open orders block is not usable. Nothing
    moved."""

    code = "insufficient-funds"
    title = "Insufficient funds"


class ReferenceReused(Conflict):
    """This `reference` was used before by the same customer for another transfer of the same kind. References are never
    free again: take a new one. Nothing moved."""

    code = "reference-reused"
    title = "Reference reused"


class QuoteAssetFixed(Conflict):
    """An instrument keeps its quote asset for ever: open orders and their reservations are reckoned in it."""

    code = "quote-asset-fixed"
    title = "Quote asset fixed"


def unknown_asset(pointer: str = "/asset_name") -> ValidationFailed:
    return ValidationFailed(errors=[FieldError(pointer, "There is no such asset.")])


def too_many_decimals(scale: int) -> ValidationFailed:
    return ValidationFailed(errors=[FieldError("/amount", f"This asset has at most {scale} decimals.")])


def balance_too_large() -> ValidationFailed:
    return ValidationFailed(errors=[FieldError("/amount", "The customer's balance would become too large.")])
