"""Plain containers as settings: every key and type is checked, missing keys get their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import nearest

Settings = TypeVar("Settings")


def from_dict(kind: type[Settings] | Settings, content: Any, where: str) -> Settings:
    """``content`` as the dataclass ``kind``, or as one like the instance ``kind``.

    Raises ConfigError in one sentence that begins with ``where`` and the key: for an unknown key,
    a value of the wrong type, or ``content`` that is not a mapping. ``where`` ends before the key.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{where.rstrip('.')} must be a mapping of keys to values, not {content!r}"
        )
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), content))
    except (ConfigAttributeError, ConfigKeyError) as error:
        key, valid = str(error.full_key), list(error.parent_node or ())
        hint = nearest(key.rpartition(".")[2], valid)
        raise ConfigError(f"{where}{key} is not a key of the config{hint}") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{where}{error.full_key}: {reason}") from error
