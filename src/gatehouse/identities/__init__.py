"""Identities that oauth2-proxy can't verify: machines by their issuers' tokens, programs by keys of ours.

Promises: nobody comes in by a token that its issuer hasn't signed for this server and for now, nor by a key that is
over; a refusal names the rule.
It knows no layer: :mod:`gatehouse.pipeline.authentication` is handed what it asks.
"""
