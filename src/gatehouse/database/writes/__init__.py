"""MLflow's most frequent writes, each as one statement that the event loop waits for.

Behind Gatehouse's checks, its stamps and the audit's intent, and before MLflow's dispatcher: a request that is plainly
one of the table in ``requests.py``, and valid by MLflow's own rules, becomes one statement of ``statements.py``. It
stores all or nothing. A run that isn't there, a parameter with another value, and anything else out of the ordinary
changes nothing here and is handed to MLflow's handler: so every refusal is MLflow's own.

tests/database/test_writes.py holds rows and answers against MLflow's. docs/decisions/ tells why.
"""
