"""Bodies, read in one place, before anybody parses them: `rules` says what each operation takes.

`layer` and `reader` take it, within a memory `budget` that identities share and the structure that `scan` counts.
Promises: no body costs more than its rule allows. May import `request` and `operations`.
"""
