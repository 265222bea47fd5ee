"""What a request would do: MLflow's operations, their classes, and the router that finds a request's.

Promises: each operation has one class, an unknown one is an admin's, and MLflow's own routers decide where a path
leads. May import `upstream`, and nothing else of Gatehouse.
"""
