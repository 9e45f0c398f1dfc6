"""The command ``server``, for programs with an argument parser of their own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from ms_enclave.cli.base import CLICommand

LEVELS = ('critical', 'error', 'warning', 'info', 'debug')


def add_argument(parser: ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    parser.add_argument('--host', default='0.0.0.0', help='The address to listen on.')
    parser.add_argument('--port', type=int, default=8000, help='The port.')
    parser.add_argument('--log-level', default='info', choices=LEVELS, help='How much is logged.')
    parser.add_argument(
        '--cleanup-interval', type=int, default=300, metavar='SECONDS', help='How often sandboxes are looked over.'
    )
    parser.add_argument('--api-key', default=None, help='The key that clients must show.')


class ServerCMD(CLICommand):
    """Serve sandboxes over HTTP."""

    name = 'server'

    def __init__(self, args: Namespace) -> None:
        self.args = args

    @staticmethod
    def define_args(parsers: Any) -> None:
        """Add the command to the subparsers of an argument parser."""
        parser: ArgumentParser = parsers.add_parser(ServerCMD.name, help='Serve sandboxes over HTTP.')
        add_argument(parser)
        parser.set_defaults(func=ServerCMD)

    def execute(self) -> None:
        """Serve until the process gets a signal to end."""
        from ms_enclave.sandbox.server.server import create_server

        args = self.args
        server = create_server(cleanup_interval=args.cleanup_interval, api_key=args.api_key)
        server.run(host=args.host, port=args.port, log_level=args.log_level)


__all__ = ['ServerCMD', 'add_argument']
