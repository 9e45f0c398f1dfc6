"""The console script ``ms-enclave``; the module also runs with -m."""

from __future__ import annotations

from enclave.cli.main import main


def run_cmd() -> None:
    """Run the command line and exit the process."""
    main()


__all__ = ['run_cmd']

if __name__ == '__main__':
    run_cmd()
