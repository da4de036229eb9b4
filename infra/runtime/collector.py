"""Python's cycle collector, tuned for processes that make many short-lived objects and few cycles."""

import gc

_YOUNG_OBJECTS = 50_000
_GENERATION_RATIO = 50


def tune() -> None:
    """Call once everything is imported and before work begins.

    With the default threshold of 700 objects a batch of five hundred events sets off dozens of collections, some over
    everything that was ever imported. What exists now is frozen, out of every later collection; reference counts free the rest.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _GENERATION_RATIO, _GENERATION_RATIO)
