"""A start, from the settings to readiness: settings, the proxy's configuration, the run directory, the processes.

Promises: every problem is told at once, before anything starts. Composes all other rooms; only `commands` imports it.
"""
