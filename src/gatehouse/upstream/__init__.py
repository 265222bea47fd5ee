"""The only importer of private names of MLflow, FastAPI, Starlette, werkzeug and Alembic.

Promises: each such name is here once, with what is relied on and the test that guards it. Imports nothing of Gatehouse
"""
