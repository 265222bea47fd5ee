"""What every request passes, in the order it meets it; docs/architecture.md tells the trip.

Context and bodies, answers and failures, identity, access, audit, and the way to MLflow. May import `policy`, `operations`
and `upstream`; knows nothing of artifacts, stamps, the UI or the start.
"""
