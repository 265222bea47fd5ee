"""What strangers get: how to sign in and with which client, whether the server is ready, and a browser's preflight.

Promises: the same for everybody, nothing secret, and answered from memory. May import `audit` and `request`.
"""
