"""Which orders trade with which, at what price. Pure; the rows come from `matching_queue`."""
