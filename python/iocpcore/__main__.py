"""``python -m iocpcore``"""

from __future__ import annotations

import sys

from iocpcore._cli import main

if __name__ == "__main__":
    sys.exit(main())
