"""Every kind of fault of the run."""

from infra.faults.kinds import broker, clients, messages, postgres, processes, wires
from infra.faults.world import Kind

KINDS: tuple[Kind, ...] = (
    *processes.KINDS,
    *broker.KINDS,
    *messages.KINDS,
    *postgres.KINDS,
    *wires.KINDS,
    *clients.KINDS,
)
