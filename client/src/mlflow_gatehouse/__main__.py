"""``python -m mlflow_gatehouse``: the same as the ``mlflow-gatehouse`` command."""

import sys

from mlflow_gatehouse.cli import main

sys.exit(main())
