"""The way to MLflow: its Flask application in threads, or its FastAPI application.

`turns` hands out the threads, `work` ends what nobody waits for. Promises: no identity holds up the others.
May import `bodies`, `request`, `policy`, `operations` and `upstream`.
"""
