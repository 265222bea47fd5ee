"""How the tool speaks to Google Cloud:

reads by REST (`google`), writes by gcloud's own lines (`gcloud`), and what both need to be allowed (`rights`).

Imports nothing of the rest of the tool: no environment, no resource.
"""
