"""Who may do what: identities, roles, the policy file's reader, and the policy in force.

Promises: a policy is judged whole, with every problem's line, and a changed one that is wrong leaves the old in force.
May import `operations` (the classes that roles are compared with), and nothing else of Gatehouse.
"""
