"""HTTP bodies of customer_service."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StringConstraints

from shared.auth.permissions import ApiScope, Role
from shared.http.fields import Body, CustomerId, DecimalText, Timestamp, text_field


def checked_iban(text: str) -> str:
    """ISO 13616: the digits after the country are a checksum. Without spaces, as it is stored."""
    if int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 != 1:
        raise ValueError("The check digits of this IBAN are wrong.")
    return text


Username = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{2,63}$")]
Password = Annotated[str, StringConstraints(min_length=8, max_length=256)]
Email = Annotated[
    str,
    StringConstraints(pattern=r"^[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,189}\.[A-Za-z]{2,24}$", to_lower=True, max_length=254),
]
Phone = Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")]
NationalId = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{5,20}$")]
Iban = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$"), AfterValidator(checked_iban)]
FullName = Annotated[str, *text_field(200)]
TierCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")]
EventType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{1,64}$")]


class TokenRead(BaseModel):
    """RFC 6749, 5.1. `expires_in` is of the access token, in seconds. A program has `scope` and no `refresh_token`."""

    access_token: str
    refresh_token: str | None = None
    token_type: str = "Bearer"
    expires_in: int
    scope: str | None = None


class PasswordChange(Body):
    current_password: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    new_password: Password


class ApiKeyCreate(Body):
    """Without `expires_at` it works until it is revoked."""

    name: Annotated[str, *text_field(100)]
    scopes: Annotated[list[ApiScope], Field(min_length=1, max_length=3)]
    expires_at: Timestamp | None = None
    current_password: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ApiKeyRead(BaseModel):
    """A program signs in with `id` as `client_id`."""

    id: str
    name: str
    scopes: list[ApiScope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class ApiKeyCreated(ApiKeyRead):
    """`secret` is the `client_secret`; it is shown this once and not stored."""

    secret: str


class OwnApiKeyRead(ApiKeyRead):
    """`operations`: the operation ids of this API that the key and its owner's role together may call."""

    customer_id: int
    role: Role
    operations: list[str]


class PasswordAgain(Body):
    current_password: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Code(Body):
    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]


class TotpRead(BaseModel):
    active: bool


class TotpEnrolled(BaseModel):
    """Shown this once. `otpauth_uri` is what authenticators read as a QR code."""

    secret: str
    otpauth_uri: str


class ProofRead(BaseModel):
    """For the header `X-Second-Factor` of one request, within `expires_in` seconds."""

    proof: str
    expires_in: int


class MeRead(BaseModel):
    customer_id: int
    username: str
    role: Role
    tier: str


class CustomerCreate(Body):
    username: Username
    password: Password
    email: Email | None = None
    phone: Phone | None = None
    national_id: NationalId | None = None
    iban: Iban | None = None
    full_name: FullName | None = None
    role: Role = Role.CUSTOMER
    tier: TierCode = "STANDARD"
    beneficial_owner_id: CustomerId | None = None


class CustomerUpdate(Body):
    """What is left out stays; null clears. `active` and `role` are for admins."""

    email: Email | None = None
    phone: Phone | None = None
    national_id: NationalId | None = None
    iban: Iban | None = None
    full_name: FullName | None = None
    active: StrictBool | None = None
    role: Role | None = None


class CustomerRead(BaseModel):
    """`phone`, `national_id` and `iban` are masked but for the customer himself and an admin who asks for him."""

    id: int
    username: str
    email: str | None
    phone: str | None
    national_id: str | None
    iban: str | None
    full_name: str | None
    role: Role
    tier: str
    active: bool
    beneficial_owner_id: int
    version: int
    created_at: datetime
    updated_at: datetime


class TierChange(Body):
    tier: TierCode


class TierRead(BaseModel):
    """`rate_limit` is in requests a minute; a lower `priority` is matched first."""

    tier_code: str
    tier_name: str
    priority: int
    rate_limit: int
    monthly_fee: DecimalText
    fee_rate: DecimalText
    fee_minimum: DecimalText


class PreferencesWrite(Body):
    """`preferences`: event type -> whether it is wanted; types that are not named are."""

    email_enabled: StrictBool
    sms_enabled: StrictBool = False
    push_enabled: StrictBool = False
    preferences: dict[EventType, StrictBool] = Field(default_factory=dict, max_length=64)


class PreferencesRead(BaseModel):
    customer_id: int
    email_enabled: bool
    sms_enabled: bool
    push_enabled: bool
    preferences: dict[str, bool]
    updated_at: datetime


class BrokerRead(BaseModel):
    id: int
    username: str
    full_name: str | None
    active: bool
    customers: int


class AssignmentCreate(Body):
    customer_id: CustomerId


class AssignmentRead(BaseModel):
    broker_id: int
    customer_id: int
    assigned_at: datetime
