"""The database: its schema, which is never upgraded unasked, its connections, and faster ways to read and write it.

Promises: the same rows and answers as MLflow's own store. May import `upstream`.
"""
