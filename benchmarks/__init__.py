"""What this library costs, beside native processes, bare engine calls and other programs from PyPI. Run by ``make bench``."""
