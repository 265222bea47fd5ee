"""What an environment costs in a month without use: the list prices that the estimate stands on, and the sum.

US dollars, us-central1 (Iowa), on demand, without taxes and discounts; other regions cost up to 40 % more. Where each
figure comes from:

* Cloud SQL Enterprise, CPU and memory: "Google Cloud SQL Pricing", usage.ai, May 2026, which quotes
  cloud.google.com/sql/pricing.
* The rest is written down from Google's pages "Cloud SQL pricing", "Cloud Run pricing" (tier 1), "Secret Manager
  pricing" and "Artifact Registry pricing" without being able to open them: **not verified**.

Take the sum as an order of magnitude; the calculator (cloud.google.com/products/calculator) has the truth.
"""

from __future__ import annotations

from deploy.config import Config
from deploy.resources import secrets

PRICES_READ = "2026-05"
HOURS = 730.0

SQL_HOUR = {"db-f1-micro": 0.0105, "db-g1-small": 0.035}  # shared core, Enterprise
SQL_CPU_HOUR, SQL_GIB_HOUR = 0.0413, 0.007
SQL_STORAGE_GIB, SQL_BACKUP_GIB = 0.17, 0.08
RUN_IDLE_CPU_SECOND, RUN_IDLE_GIB_SECOND = 0.0000025, 0.0000025  # a warm instance that does nothing
#: An instance that serves at least one request, and a million requests ("Cloud Run pricing", tier 1, request-based
#: billing).
RUN_CPU_SECOND, RUN_GIB_SECOND, RUN_MILLION_REQUESTS = 0.000024, 0.0000025, 0.40
SECRET_VERSION = 0.06
REGISTRY_GIB = 0.10

#: Assumed: what a backup and an image weigh. Both grow with use.
BACKUP_SHARE, IMAGE_GIB = 0.2, 0.5


def estimate(config: Config) -> dict[str, float]:
    """Return the monthly costs by part, in US dollars, with no request at all."""
    sql, run = config.sql, config.service
    tier, twice = sql.tier, 2 if sql.availability == "regional" else 1
    if tier in SQL_HOUR:
        hour = SQL_HOUR[tier]
    else:
        cpus, mebibytes = (int(part) for part in tier.split("-")[2:])
        hour = cpus * SQL_CPU_HOUR + mebibytes / 1024 * SQL_GIB_HOUR
    gib = _gib(run.memory)
    warm = HOURS * 3600 * run.min_instances * (int(run.cpu) * RUN_IDLE_CPU_SECOND + gib * RUN_IDLE_GIB_SECOND)
    return {
        "database": round(HOURS * hour * twice, 2),
        "database storage": round(sql.storage_gb * SQL_STORAGE_GIB * twice, 2),
        "backups": round(sql.storage_gb * BACKUP_SHARE * SQL_BACKUP_GIB, 2),
        "warm instances": round(warm, 2),
        "secrets and image": round(len(secrets.wanted(config)) * SECRET_VERSION + IMAGE_GIB * REGISTRY_GIB, 2),
    }


def use(config: Config, hours: float, instances: int, requests: float) -> dict[str, float]:
    """Return what use adds in a month, in US dollars: so many instances busy for so many hours, and the requests.

    The free tier (180,000 vCPU-seconds, 360,000 GiB-seconds, 2 million requests) isn't taken off.
    """
    run = config.service
    second = int(run.cpu) * RUN_CPU_SECOND + _gib(run.memory) * RUN_GIB_SECOND
    return {
        "busy instances": round(hours * 3600 * instances * second, 2),
        "requests": round(requests / 1e6 * RUN_MILLION_REQUESTS, 2),
    }


def _gib(memory: str) -> float:
    return int(memory[:-2]) / (1024 if memory.endswith("Mi") else 1)


def summary(config: Config) -> str:
    """Return the estimate as one line."""
    parts = estimate(config)
    told = ", ".join(f"{name} ${value:.2f}" for name, value in parts.items() if value)
    return (
        f"Idle, this costs about ${sum(parts.values()):.0f} a month ({told}); artifacts and use come on top."
        f" List prices of {PRICES_READ} for us-central1, not checked against the live pages."
    )
