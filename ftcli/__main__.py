"""`python -m ftcli`."""

import sys

from ftcli.cli import main

sys.exit(main())
