"""Housekeeping on a Docker engine (layer 4): is it there, and what did dead owners leave on it.

Most sandboxes need no sweeping: their agent's stream ends with the owner, and the engine removes them. What can stay is a
container with a ``command`` of its own, which continues without its agent, one whose engine was away when its owner died, and one
whose owner was killed outright between its creation and its start. Managers sweep from time to time, and each process does when
it makes its first sandbox.

Only what is provably dead is touched: the labels must name an owner on this very host and boot whose process is gone (see
`enclave.sandboxes.owner`), and a sandbox that was meant to be kept (``remove_on_exit=False``) stays.
"""

from __future__ import annotations

import logging
import os

from enclave.errors import EnclaveError, EngineError, EngineUnavailableError
from enclave.sandboxes.docker.engine import Engine, get_engine
from enclave.sandboxes.owner import OwnerProcess
from enclave.threads import thread_pool

logger = logging.getLogger(__name__)

LABEL = 'enclave.sandbox'
LABEL_KEPT = 'enclave.kept'
"""On a container that outlives its owner on purpose."""
LABEL_MAIN = 'enclave.main'
"""On a container whose main process is not our agent."""
LABEL_TENANT = 'enclave.tenant'
"""On a container that is a tenant's of a server: who may take it up again."""


PING_SECONDS = 1.0
"""How long an engine may take to answer before it counts as absent."""


def ping_engine() -> None:
    """Return if the engine answers within `PING_SECONDS`; else raise."""
    with Engine(timeout=PING_SECONDS) as engine:
        engine.ping()


class DockerHousekeeper:
    """The housekeeping of all sandboxes on this process's engine."""

    def check(self) -> None:
        """Return if the engine answers.

        Raises:
            EngineUnavailableError: It does not.
        """
        get_engine().ping()

    def sweep(self) -> list[str]:
        """Remove the containers that dead owners left and return their sandboxes' ids.

        Raises:
            EngineUnavailableError: The engine does not answer.
        """
        return _sweep(get_engine())


def sweep_once(engine: Engine) -> None:
    """Sweep an engine on a thread, once in the life of this process, when it makes its first sandbox.

    So what an owner left that was killed between the creation of a container and its start, which nothing ends by itself, goes as
    soon as anybody makes a sandbox, with a manager or without.
    """
    if engine.memory.get(_SWEPT_BY) == os.getpid():
        return
    engine.memory[_SWEPT_BY] = os.getpid()

    def sweep() -> None:
        try:
            _sweep(engine)
        except EnclaveError as error:
            logger.debug('what dead owners left could not be swept: %s', error)

    thread_pool.submit(sweep)


_SWEPT_BY = 'swept by'


def _sweep(engine: Engine) -> list[str]:
    with engine.translate('list the containers of sandboxes'):
        found = engine.api.containers(all=True, filters={'label': LABEL})
    swept = []
    for container in found:
        labels = container.get('Labels') or {}
        owner = OwnerProcess.from_labels(labels)
        if owner is None or LABEL_KEPT in labels or not owner.is_provably_dead():
            continue
        sandbox_id = labels[LABEL]
        try:
            with engine.translate(f'remove sandbox {sandbox_id}, which a dead process left'):
                engine.api.remove_container(container['Id'], force=True, v=True)
        except EngineUnavailableError:
            raise
        except EngineError as error:
            # 404: it is gone; 409: it is going.
            if error.details.get('status') not in (404, 409):
                logger.warning('%s', error)
            continue
        logger.info(
            'swept sandbox %s, left by process %s', sandbox_id, owner.pid, extra={'enclave_sandbox': sandbox_id}
        )
        swept.append(sandbox_id)
    return swept
