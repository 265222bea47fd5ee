"""What is seen from outside.

Each process notes what it does, and one process of its own shows the sums to whoever scrapes.

Workers and the supervisor send what changed, once a second, by datagrams on a private socket
(:mod:`~gatehouse.monitoring.notes`); :mod:`~gatehouse.monitoring.server` adds them up. Promises: the figures are right
with any number of workers, a scraper never holds up a request, and without ``METRICS`` nothing of this is there. May
import `request` and what lies below it.
"""
