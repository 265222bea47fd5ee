"""Artifacts of any size, streamed between the client's socket and a store in constant memory.

Promises: whole or not at all, and nothing outside of the server's own places.
May import `pipeline`, `policy` and `operations`; each store knows the interface (`stores.base`) and no other store.
"""
