"""The deploy tool: `python -m deploy COMMAND ENVIRONMENT`. It puts Gatehouse on Cloud Run, and takes it down again.

How it is built: `config` reads an environment's file; `commands` are pure builders that return gcloud's argument lists;
`observe` asks the cloud what exists; `plan` compares (pure); `execute` runs the steps. Nothing is kept between runs but
what the cloud itself holds, so a run that died at any point is continued by the next one.
"""
