"""Identities that oauth2-proxy can't verify: machines by their issuers' tokens, verified here.

It knows no layer: :mod:`gatehouse.pipeline.authentication` is handed what it asks.
"""
