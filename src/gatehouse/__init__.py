"""Gatehouse: an MLflow tracking server with a locked front door.

The server's side: what runs in the container. What people install beside MLflow is a distribution of its own, in
``client/`` (``mlflow-gatehouse``); neither imports the other, for what they share is HTTP.
"""

__version__ = "0.1.0"
