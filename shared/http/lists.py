"""Lists in one value, of a setting or a header."""


def entries(text: str) -> list[str]:
    """`a, b` as `["a", "b"]`; what is empty is left out."""
    return [entry for entry in map(str.strip, text.split(",")) if entry]
