"""One request, as all layers see it: its `Context`, the things that it names, and the answers of Gatehouse's own.

Promises: made once for each request, and handed on. May import `policy` and `operations`.
"""
