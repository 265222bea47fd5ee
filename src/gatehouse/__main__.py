"""``python -m gatehouse``: the same as the ``gatehouse`` command."""

import sys

from gatehouse.commands.cli import main

sys.exit(main())
