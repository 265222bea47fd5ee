"""The `gatehouse` command line: each subcommand is imported only when it is asked for.

Nothing imports this room; it may import all others.
"""
