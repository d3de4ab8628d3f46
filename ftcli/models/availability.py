"""Whether a hub model is available, checked before the heavy imports: cached, reachable, or why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.core import hub_cache
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import offline
from ftcli.core.untrusted import foreign_files

_WEIGHTS = ("*.safetensors", "*.bin")


def is_cached(hub_id: str, revision: str | None) -> bool:
    """Whether configuration and weights of a hub model are in the local cache."""
    snapshot: Path | None = hub_cache.cached_snapshot(hub_id, revision)
    if snapshot is None:
        return False
    if shards := _shards(snapshot):
        return all((snapshot / shard).is_file() for shard in shards)
    return any(next(snapshot.glob(pattern), None) for pattern in _WEIGHTS)


def _shards(snapshot: Path) -> set[str]:
    """The weight files that an index lists; an interrupted download lacks some of them."""
    for index in snapshot.glob("*.index.json"):
        try:
            named: Any = foreign_files.read_json(index).get("weight_map", {})
            return {str(shard) for shard in named.values()}
        except (OSError, ValueError, AttributeError):
            return {index.name + " is damaged"}
    return set()


def require(hub_id: str, revision: str | None, where: str) -> None:
    """Check that a hub model can be loaded.

    Raises:
        ConfigError: neither cached nor reachable, gated, or unknown to the hub; with the remedy.
    """
    if is_cached(hub_id, revision):
        return
    here = f"{hub_id} is not in the local cache"
    bring = "download it on a machine with a network (hf download), copy the cache, or set model.name_or_path=/a/folder"
    if variable := offline():
        raise ConfigError(Problem(where, f"{here}, and {variable} forbids the network", bring))
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(hub_id, revision=revision, timeout=10)
        HfApi().auth_check(hub_id)
    except GatedRepoError:
        fix = "accept the terms on the model's page and log in with `hf auth login`"
        raise ConfigError(Problem(where, f"{hub_id} is gated and this account has no access to it", fix)) from None
    except RevisionNotFoundError:
        raise ConfigError(
            Problem(where, f"{hub_id} has no revision {revision}", "name a branch, tag or commit")
        ) from None
    except RepositoryNotFoundError:
        fix = "check the spelling, or log in with `hf auth login` if it is private"
        raise ConfigError(Problem(where, f"the hub has no model {hub_id}", fix)) from None
    # A captive portal answers every request with its own page, which does not parse as a model.
    except (HfHubHTTPError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            Problem(where, f"{here}, and the hub cannot be reached ({type(error).__name__})", bring)
        ) from None
    except Exception as error:  # the http library's own errors share no public base class
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise ConfigError(
            Problem(where, f"{here}, and the hub cannot be reached ({type(error).__name__})", bring)
        ) from None
