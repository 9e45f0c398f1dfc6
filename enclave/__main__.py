"""``python -m enclave`` is `ms-enclave`, also where its script is not on the PATH."""

from __future__ import annotations

from enclave.cli.main import main

if __name__ == '__main__':
    main()
