"""Which workspace a request is for, and who may enter it; present only where workspaces are on.

Promises: a name that doesn't exist and somebody else's are one answer, given before anything of MLflow runs.
May import `request`, `policy`, `operations` and `upstream`.
"""
