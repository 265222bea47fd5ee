"""Moving in (``gatehouse import``): what another MLflow has, with its ids, times, histories and artifacts.

Whatever the source is, it becomes a database with the installed MLflow's schema (:mod:`~gatehouse.moving.sources`);
:mod:`~gatehouse.moving.rows` copies from that into the gate's, a batch a transaction, and
:mod:`~gatehouse.moving.files` the artifacts. :mod:`~gatehouse.moving.archive` makes and restores backups.
Promises: a batch is whole or not there, and what came along is compared with where it came from.
"""
