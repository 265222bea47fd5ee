"""Whose something is: the verified identity in place of whatever author a client names.

Promises: no field of a request that names its author reaches MLflow as the client wrote it.
May import `pipeline`, `policy` and `operations`.
"""
