"""What customer_service refuses, named as facts."""

from shared.errors import BrokageError, Conflict, FieldError, ValidationFailed


class InvalidCredentials(BrokageError):
    """The username or the password is wrong. The answer is the same for both."""

    code = "invalid-credentials"
    status = 401
    title = "Wrong username or password"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'Bearer realm="brokage"'})


class InvalidRefreshToken(BrokageError):
    """The refresh token is unknown, expired or signed out. Sign in again."""

    code = "invalid-refresh-token"
    status = 401
    title = "Refresh token not valid"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'Bearer realm="brokage"'})


class RefreshTokenReused(InvalidRefreshToken):
    """The refresh token was used before. Somebody may have a copy of it, so the whole session was ended. Sign in
    again."""

    code = "token-reused"
    title = "Refresh token used twice"


class SignInElsewhere(BrokageError):
    """This installation takes the tokens of an external issuer: sign in there, and send its access token."""

    code = "sign-in-elsewhere"
    status = 403
    title = "Sign in elsewhere"


class TooManyApiKeys(Conflict):
    """Twenty API keys work at the same time. Revoke one first."""

    code = "too-many-api-keys"
    title = "Too many API keys"


class SecondFactorActive(Conflict):
    """There is a second factor already. Remove it first, with a proof of it."""

    code = "second-factor-active"
    title = "Second factor active"


class WrongCode(ValidationFailed):
    """The code is wrong, of another time, or was used before. Each code is taken once. Nothing was done."""

    code = "wrong-code"
    title = "Wrong code"


class UsernameTaken(Conflict):
    """There is a customer with this username already."""

    code = "username-taken"
    title = "Username taken"


class EmailTaken(Conflict):
    """There is a customer with this e-mail address already."""

    code = "email-taken"
    title = "E-mail address taken"


def no_such(pointer: str, thing: str) -> ValidationFailed:
    """A value of the body that names something that does not exist."""
    return ValidationFailed(errors=[FieldError(pointer, f"There is no such {thing}.")])
