"""TOTP as a second step: set up by its owner, proved where another service asks for it, removed."""

from fastapi import Response
from fastapi.concurrency import run_in_threadpool

from customer_service import repository
from customer_service.dependencies import CustomerResources, Resources
from customer_service.endpoints.sessions import password_checked
from customer_service.schemas import Code, PasswordAgain, ProofRead, TotpEnrolled, TotpRead
from customer_service.service import second_factor
from shared.auth.caller import CallerContext
from shared.auth.key_set import directory_key_set
from shared.auth.second_factor import (
    PROOF_SECONDS,
    ProofHeader,
    SecondFactorRequired,
    issue_proof,
    verify_proof,
)
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.fields import CustomerIdText
from shared.http.route import service_router

router = service_router(tags=["second factor"])


@router.get("/api/auth/totp", summary="Whether I have a second factor")
def get_totp(caller: Caller, resources: Resources) -> TotpRead:
    return TotpRead(active=_is_active(resources, caller.customer_id))


@router.post("/api/auth/totp", summary="Set up a second factor", status_code=201)
async def enroll_totp(body: PasswordAgain, caller: Caller, resources: Resources) -> TotpEnrolled:
    """The secret counts once a code of it was sent to `/api/auth/totp/activate`."""
    await password_checked(resources, caller, body.current_password)
    secret, uri = await run_in_threadpool(
        resources.database.run,
        lambda uow: second_factor.enroll(uow, caller.customer_id, caller.principal.username, resources.field_keys()),
        context=caller.context(),
    )
    return TotpEnrolled(secret=secret, otpauth_uri=uri)


@router.post("/api/auth/totp/activate", summary="Confirm it with its first code", status_code=204)
def activate_totp(body: Code, caller: Caller, resources: Resources) -> Response:
    _take(body, caller, resources, activate=True)
    return Response(status_code=204)


@router.post("/api/auth/totp/proof", summary="Exchange a code for a proof")
def prove_totp(body: Code, caller: Caller, resources: Resources) -> ProofRead:
    """Each code is taken once, and each proof is good for one request."""
    _take(body, caller, resources, activate=False)
    proof = issue_proof(resources.signing_key(), caller.customer_id)
    return ProofRead(proof=proof, expires_in=PROOF_SECONDS)


@router.delete("/api/auth/totp", summary="Remove my second factor", status_code=204)
def remove_totp(caller: Caller, resources: Resources, second_factor_proof: ProofHeader = None) -> Response:
    """With a proof of it. Who has lost the device asks an admin."""
    if _is_active(resources, caller.customer_id):
        if second_factor_proof is None:
            raise SecondFactorRequired()
        verify_proof(second_factor_proof, caller.customer_id, directory_key_set(resources.key_directory))
    resources.database.run(lambda uow: second_factor.remove(uow, caller.customer_id), context=caller.context())
    return Response(status_code=204)


@router.delete("/api/customers/{customer_id}/totp", summary="Remove that of somebody who lost it", status_code=204)
def reset_totp(customer_id: CustomerIdText, caller: Caller, resources: Resources) -> Response:
    with resources.database.read() as connection:
        if repository.find_state(connection, customer_id) is None:
            raise NotFound()
    resources.database.run(lambda uow: second_factor.remove(uow, customer_id), context=caller.context(customer_id))
    return Response(status_code=204)


def _take(body: Code, caller: CallerContext, resources: CustomerResources, *, activate: bool) -> None:
    second_factor.take(
        resources.database,
        caller.customer_id,
        body.code,
        resources.field_keys(),
        caller.context(),
        activate=activate,
    )


def _is_active(resources: CustomerResources, customer_id: int) -> bool:
    with resources.database.read() as connection:
        return repository.has_second_factor(connection, customer_id)
