"""Use cases: `customers` (accounts, tiers, preferences, brokers) and `sessions` (sign-in, rotation, sign-out,
passwords)."""
