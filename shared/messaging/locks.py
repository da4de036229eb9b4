"""Numbers of the advisory locks of the outbox, in each source's database."""

LANE_LOCK = 7001
"""With a lane's hash: who writes to the lane."""
RELAY_LOCK = 7002
"""Who claims and acknowledges. A backup holds it for a moment: nothing goes out or comes back meanwhile."""
