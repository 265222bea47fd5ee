"""What every request passes, in the order it meets it; docs/architecture.md tells the trip.

Promises: nothing without a verified identity, a role and, if it writes, an audit line reaches MLflow; no client stops
others. Holds context, bodies, answers, identity, access, audit, failures and the dispatch to MLflow. May import
`policy`, `operations` and `upstream`; knows nothing of artifacts, stamps, the UI or the start.
"""
