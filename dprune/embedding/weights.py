"""Published weights from the hubs and their caches.

The hub libraries retry for a minute when there is no network; here the cache is looked at first, and the hub is asked
for a sign of life before anything is downloaded.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dprune.errors import InputError

ANSWER_WITHIN_S = 4.0
_log = logging.getLogger("dprune")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep the warnings and log lines of network libraries, which speak to developers, from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class HubFile:
    """Where the published weights of a network are.

    Attributes:
        network: what messages call it.
        repo: repository on the Hugging Face hub, empty for none.
        names: files there, the first that exists is taken.
        url: where else the file is, empty for nowhere.
        folder: where files from `url` are kept.
    """

    network: str
    repo: str
    names: tuple[str, ...]
    url: str
    folder: Path

    @property
    def revision(self) -> str | None:
        """The revision that a repository's name may carry behind an @."""
        return self.repo.partition("@")[2] or None

    @property
    def local(self) -> Path:
        """Where the file from `url` is kept."""
        return self.folder / self.url.rpartition("/")[2]

    def cached(self) -> Path | None:
        """Return the file if a cache has it."""
        from huggingface_hub import try_to_load_from_cache

        for name in self.names if self.repo else ():
            found = try_to_load_from_cache(self.repo.partition("@")[0], name, revision=self.revision)
            if isinstance(found, str):
                return Path(found)
        return self.local if self.url and self.local.is_file() else None

    def download(self) -> Path:
        """Fetch the file into its cache.

        Raises:
            Exception: whatever the hub's library raises.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        for name in self.names if self.repo else ():
            with contextlib.suppress(EntryNotFoundError):
                return Path(hf_hub_download(self.repo.partition("@")[0], name, revision=self.revision))
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.url, str(self.local), progress=False)
        return self.local


def fetch(hub: HubFile) -> Path:
    """Return the local file of published weights, downloading it if the hub answers.

    Raises:
        InputError: there are none, or no cache has them and the hub cannot be reached.
    """
    if not hub.repo and not hub.url:
        raise InputError(f"{hub.network}: has no published weights: give them with --weights FILE.")
    found = hub.cached()
    if found:
        return found
    from huggingface_hub import constants

    host = constants.ENDPOINT if hub.repo else "/".join(hub.url.split("/")[:3])
    if constants.HF_HUB_OFFLINE:
        raise _missing(hub, "HF_HUB_OFFLINE is set")
    if not answers(host):
        raise _missing(hub, f"{host} does not answer")
    _log.info("downloading the weights of %s.", hub.network)
    try:
        with hushed():
            return hub.download()
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise _missing(hub, f"the download failed: {reason}") from error


def _missing(hub: HubFile, reason: str) -> InputError:
    from huggingface_hub import constants

    if hub.repo:
        what, where = f"{hub.repo.partition('@')[0]}/{hub.names[0]}", constants.HF_HUB_CACHE
        remedy = f"run `hf download {hub.repo.partition('@')[0]}` where there is a network and copy that folder"
    else:
        what, where, remedy = hub.url, str(hub.folder), "download it into that folder"
    return InputError(
        f"{hub.network}: its weights ({what}) are not in {where}, and {reason}: {remedy}, or give --weights FILE."
    )


def answers(url: str) -> bool:
    """Tell whether a host gives any answer within a few seconds."""
    answered = threading.Event()

    def knock() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_WITHIN_S).close()
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, ValueError):
            return
        answered.set()

    # Looking a name up has no timeout of its own.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN_S)
    return answered.is_set()
