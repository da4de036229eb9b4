"""Drives orders and trades through the services: sagas, the book, matching."""
