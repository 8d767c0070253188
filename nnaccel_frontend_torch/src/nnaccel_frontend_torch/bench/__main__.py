"""``python -m nnaccel_frontend_torch.bench``."""

from nnaccel_frontend_torch.bench.command import main

raise SystemExit(main())
