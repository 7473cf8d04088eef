"""`python -m steadyvlm` is the command line."""

import sys

from steadyvlm.cli.main import main

sys.exit(main())
