"""What a template preloads that ends while it imports."""

from __future__ import annotations

import os

os._exit(1)
