"""MLflow's most frequent reads, answered by PostgreSQL itself: it writes the JSON, and this passes the bytes on.

Behind Gatehouse's checks and before MLflow's dispatcher stands one layer (``database/layer.py``). For an operation of
the table in ``requests.py`` it takes one SELECT (``runs.py``, ``histories.py``, ``experiments.py``, with MLflow's own
parser of filters), sends it on a connection that the event loop waits for (``database/connections.py``), and sends the
rows, which are JSON already (``text.py``). There is no thread, no object for a row and no protobuf on that way.
Whatever it doesn't know, and whatever fails, is MLflow's to answer: so every refusal is MLflow's own.

tests/database/test_reads.py holds the answers against MLflow's, byte for byte. docs/decisions/ tells why.
"""
