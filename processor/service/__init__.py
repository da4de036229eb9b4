"""Use cases: what messages and admins make of sagas, the book and trades."""
