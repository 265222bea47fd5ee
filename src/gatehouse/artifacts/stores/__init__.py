"""Artifact stores that bytes stream through: one interface (base), and a module for each kind of store.

Modules import their store's library themselves, so the libraries of stores that nobody uses are neither installed nor
loaded.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from gatehouse.artifacts.stores.base import Store

#: Scheme of ARTIFACTS_DESTINATION → module, class, and the packages that the module needs.
STORES = {
    "file": ("local", "LocalStore", "mlflow"),
    "gs": ("google", "GoogleStore", "google-cloud-storage"),
    "s3": ("s3", "S3Store", "boto3"),
    "wasbs": ("azure", "AzureStore", "azure-storage-blob azure-identity"),
    "abfss": ("azure", "AzureStore", "azure-storage-blob azure-identity"),
}


def open_store(destination: str) -> Store:
    """Return the store that a value of ARTIFACTS_DESTINATION (as settings parse it) names; its library is loaded now.

    Raises:
        StoreError: if the library isn't installed, or there are no credentials.
    """
    from gatehouse.artifacts.stores.base import StoreError

    module, name, packages = STORES[urlsplit(destination).scheme]
    try:
        store: type[Store] = getattr(importlib.import_module(f"gatehouse.artifacts.stores.{module}"), name)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"The library for {destination.partition(':')[0]}:// isn't installed ({error.name} is missing): "
            f"use the image with all stores (make image STORES=all), or pip install {packages}."
        ) from None
    return store(destination)  # type: ignore[call-arg]  # each takes the destination


_lock = threading.Lock()
_opened: dict[str, Store] = {}


def shared(destination: str) -> Store:
    """Return this process's one store of a destination; the first call opens it, and may take a second.

    Raises:
        StoreError: as :func:`open_store`; the next call tries again.
    """
    with _lock:
        if destination not in _opened:
            _opened[destination] = open_store(destination)
        return _opened[destination]
