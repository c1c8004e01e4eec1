"""``python -m parkit`` is the ``parkit`` command."""

import sys

from parkit_async.cli import main

sys.exit(main())
