"""Gatehouse: an MLflow tracking server with a locked front door.

The package holds two things that share nothing but this name and the command line:
the server's side (what runs in the container) and ``gatehouse.client`` (the plug-in for
training scripts), which imports nothing of the server.
"""

__version__ = "0.1.0"
