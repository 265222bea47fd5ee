"""What a person types: one module per command, each thin.

They look (`deploy.observe`), plan (`deploy.plan`), act and tell.
"""
