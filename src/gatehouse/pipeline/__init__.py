"""The layers that every request passes before anybody serves it; docs/architecture.md tells the trip.

Promises: nothing without a verified identity, a role and, if it writes, an audit log that can be written reaches
MLflow. May import `audit`, `bodies`, `request`, `policy` and `operations`; knows nothing of who serves in the end.
"""
