"""The fault run: a whole system of its own, broken on purpose under traffic, and the proof that nothing was lost or doubled.

`links` are the bent wires between services and servers, `system` is what is broken, `kinds` are the ways to break it, `history` is
what the clients saw, `proof` compares that with the stores. See docs/faults.md.
"""
