"""Whose something is: the verified identity in place of whatever author a client names.

Promises: no field of a request that names its author reaches MLflow as the client wrote it, and no row is written with
another author than whoever is served. May import `pipeline`, `policy`, `operations` and `upstream`.
"""
