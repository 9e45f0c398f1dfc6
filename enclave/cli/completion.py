"""`ms-enclave completion` (layer 6)."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

# Both names of the program complete by the same function.
_ACTIVATION = {
    # The name of an image has a colon, at which bash would begin a new word.
    'bash': 'complete -o nosort -F {function} enclave\nCOMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}',
    'zsh': 'compdef {function} enclave',
    'fish': 'complete --no-files --command enclave --arguments "({function})"',
}


@click.command()
@click.argument('shell', type=click.Choice(['bash', 'zsh', 'fish']))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete commands, options, kinds, images and the ids of sandboxes.

    \b
    Examples:
      bash:  ms-enclave completion bash > ~/.local/share/bash-completion/completions/ms-enclave
             or in ~/.bashrc:  eval "$(ms-enclave completion bash)"
      zsh:   eval "$(ms-enclave completion zsh)"      in ~/.zshrc, after compinit
      fish:  ms-enclave completion fish > ~/.config/fish/completions/ms-enclave.fish
    """
    from enclave.cli.main import cli

    made = get_completion_class(shell)
    assert made is not None
    script = made(cli, {}, 'ms-enclave', '_MS_ENCLAVE_COMPLETE')
    # Not `source()`, which also tries out the bash of this machine.
    click.echo((script.source_template % script.source_vars()).rstrip())
    click.echo(_ACTIVATION[shell].format(function=script.func_name))
