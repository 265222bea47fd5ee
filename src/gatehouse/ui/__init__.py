"""What people see beside MLflow's own pages: whoami, who may do what, the account menu, the way back to the sign-in.

Promises: nothing here decides what is allowed; it only shows it. May import `pipeline`, `audit`, `policy` and
`operations`.
"""
