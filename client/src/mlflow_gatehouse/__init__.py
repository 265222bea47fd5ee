"""Gatehouse's client: identity tokens for MLflow's SDK and the command line that outlive a training run.

A distribution of its own (``mlflow-gatehouse``), which depends on google-auth and requests alone: a training
environment gets nothing of the server.

=================  ==============================================================================
module             what it holds
=================  ==============================================================================
``plugin``         MLflow's entry point: ``MLFLOW_TRACKING_AUTH=gatehouse``
``auth``           the requests hook that signs each request and retries a refused one once
``keeper``         one token per server and process: renewed early, shared by threads, fork-safe
``sources``        where a token comes from, in order
``identity``       the token itself, read but not verified (the server verifies)
``server``         the tracking server's origin, and what it says of itself
``refusals``       what an answer that isn't MLflow's means, in words
``oidc``, ``store``  sign-in at an OpenID provider; where its result is kept
``pins``           which client each server named first, so that none can take another's tokens
``doctor``         ``mlflow-gatehouse doctor``
``cli``, ``commands``  the command ``mlflow-gatehouse``: ``login``, ``logout``, ``whoami`` and ``token``
=================  ==============================================================================
"""

#: The server's own: each hands out the client that it was made with.
__version__ = "0.1.0"
