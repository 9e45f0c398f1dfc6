"""The cluster that docs/ray.md shows, as Ray reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enclave.ray.ray_options import RayOptions
from enclave.server.auth import read_settings

pytestmark = pytest.mark.ray
PAGE = Path(__file__).parents[2] / 'docs/ray.md'


def block(language: str) -> str:
    """Return the one block of the page that is of a language."""
    (found,) = re.findall(rf'^```{language}\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def prepared() -> dict[str, Any]:
    """Return the cluster as `ray up` prepares it before it asks the provider for anything."""
    from ray.autoscaler._private.util import prepare_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(block('yaml')))
    return config


def test_ray_takes_the_cluster_and_refuses_one_with_a_key_of_another_name() -> None:
    from ray.autoscaler._private.util import validate_config

    config = prepared()

    validate_config(config)
    assert config['available_node_types']['sandboxes']['max_workers'] == 20
    with pytest.raises(Exception, match='worker_count'):
        validate_config({**config, 'worker_count': 3})


def test_as_many_shards_fit_on_a_node_as_the_page_says_and_they_fit_on_no_other(tmp_path: Path) -> None:
    types = prepared()['available_node_types']
    options = tmp_path / 'shards.toml'
    options.write_text(block('toml'))
    wanted = RayOptions(**read_settings(options)).actor_options
    shard = {'CPU': wanted['num_cpus'], 'memory': wanted['memory'], **wanted['resources']}

    def fits(node: dict[str, float]) -> int:
        return int(min(node.get(name, 0) // amount for name, amount in shard.items()))

    assert fits(types['sandboxes']['resources']) == 4
    assert fits(types['head']['resources']) == 0
