"""Sends a parcel to a repository of a hub, as one commit: until it is made, the repository shows none of it.

Large files are stored one by one before that commit. A hub that has the bytes of one takes none again, so the same
command goes on where another was cut. The token is the hub library's own; it is given to nothing and printed nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, NoReturn

from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.core.hub_cache import offline
from ftcli.core.untrusted.printable import one_line
from ftcli.publishing.parcel import Parcel, Sent

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LOADED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".jinja", ".model", ".py")
"""What programs read by its name where it lies in a repository, whoever put it there."""
_QUERY = re.compile(r"\?\S+")
"""Of an address: a signed one has its permission there."""
_SECONDS = 30.0


def endpoint() -> str:
    """The address of the hub, as its own library reads it."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a parcel goes."""

    repository: str
    public: bool = False
    replaces: bool = False
    """Whether what else a program would load from the repository is removed."""

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"{endpoint()}/{self.repository}"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What has become of it."""

    commit: str
    private: bool
    removed: Sequence[str] = ()
    kept: Sequence[str] = ()
    """What was in the repository before and is not of this parcel."""


@dataclass
class _State:
    """The progress of an upload, for the message of a failure."""

    target: Target
    total: int
    created: bool = False
    stored: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        made = (
            f"{self.target.repository} was made and is empty"
            if self.created
            else f"{self.target.repository} is as it was"
        )
        return f"{made}, and the hub took {len(self.stored)} of {self.total} files, of which it keeps the large ones"


def upload(parcel: Parcel, target: Target, where: str, said: Callable[[str], None]) -> Pushed:
    """Send a parcel.

    Args:
        where: the command, for messages.
        said: is told of each file that the hub has.

    Raises:
        ConfigError: the hub takes it not, or not now, with what it has and the remedy.
    """
    if variable := offline():
        raise ConfigError(Problem(where, f"{variable} forbids the network", "unset it, or push from elsewhere"))
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, utils

    utils.disable_progress_bars()  # type: ignore[attr-defined]
    utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if not get_token():
        what = "there is no token for the hub"
        raise ConfigError(Problem(where, what, "log in with `hf auth login`, or set HF_TOKEN"))
    api, state = HfApi(library_name="ftcli"), _State(target, len(parcel.files))
    try:
        before = _opened(api, target, state, where)
        names = {each.name for each in parcel.files}
        others = [name for name in _names(before) if name not in names and name != ".gitattributes"]
        removed = _removed(others, target, where)
        additions = []
        for each in parcel.files:
            source = each.source if isinstance(each.source, bytes) else str(each.source)
            addition = CommitOperationAdd(path_in_repo=each.name, path_or_fileobj=source)
            with _told(where, state, f"while {each.name} was sent"):
                # No ignore rules of the repository: what is left out of a commit without a word would be missed later.
                api.preupload_lfs_files(
                    target.repository, additions=[addition], free_memory=False, gitignore_content=""
                )
            additions.append(addition)
            state.stored.append(each.name)
            said(f"{each.name}  {each.size:,} bytes")
        operations = [*additions, *(CommitOperationDelete(path_in_repo=name) for name in removed)]
        commit = _committed(api, parcel, target, operations, before, state, where)
    except KeyboardInterrupt:
        said(f"stopped: {state.told}; the same command goes on")
        raise
    kept = [name for name in others if name not in removed]
    return Pushed(commit=commit, private=bool(before.private), removed=removed, kept=kept)


def _opened(api: Any, target: Target, state: _State, where: str) -> Any:
    """The repository, made where there is none, with what is in it and whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with _told(where, state, "when it was asked who you are"):
        api.whoami()
    with _told(where, state, "when it was asked for the repository"):
        try:
            found = api.repo_info(target.repository, timeout=_SECONDS)
        except RepositoryNotFoundError:
            found = None
    if found is None:
        with _told(where, state, "when the repository was to be made"):
            api.create_repo(target.repository, private=not target.public)
            state.created = True
            found = api.repo_info(target.repository, timeout=_SECONDS)
    if bool(found.private) == target.public:
        kind, other = ("public", "private") if target.public is False else ("private", "public")
        what = f"{target.repository} is {kind}, and this would have to be {other}; nothing of the model was sent"
        fix = "say --public" if kind == "public" else "leave out --public"
        raise ConfigError(
            Problem(where, what, f"{fix}, name another repository, or change it at {target.url}/settings")
        )
    return found


def _names(found: Any) -> list[str]:
    return sorted(each.rfilename for each in found.siblings or ())


def _removed(others: Sequence[str], target: Target, where: str) -> list[str]:
    """What is removed of other files: those that a program would load beside the new ones."""
    loaded = [name for name in others if name.endswith(_LOADED)]
    if loaded and not target.replaces:
        what = f"{target.repository} has {', '.join(loaded[:5])}{' …' if loaded[5:] else ''}, which programs would load"
        fix = "name another repository, or say --replace, which removes them in the same commit"
        raise ConfigError(Problem(where, f"{what} beside these files; nothing of the model was sent", fix))
    return loaded


def _committed(
    api: Any, parcel: Parcel, target: Target, operations: Sequence[Any], before: Any, state: _State, where: str
) -> str:
    """The commit with all files, once the hub shows them as they were sent."""
    try:
        with _told(where, state, "when the commit was to be made"):
            message = f"Upload {parcel.run.parent.name}/{parcel.run.name} with ftcli"
            made = api.create_commit(target.repository, operations, commit_message=message, parent_commit=before.sha)
            commit = str(made.oid)
    except ConfigError:
        # Its answer may be all that was lost.
        commit = _landed(api, parcel, target, before.sha)
        if not commit:
            raise
    with _told(where, state, "when it was asked what it has now"):
        wrong = _differences(api, parcel.files, target, commit)
    if wrong:
        what = f"commit {commit} of {target.repository} does not have what was sent: {', '.join(wrong)}"
        raise ConfigError(Problem(where, what, "push again, and look at its files"))
    return commit


def _landed(api: Any, parcel: Parcel, target: Target, before: str | None) -> str:
    """The commit that was made although its answer was lost; "" where there is none."""
    try:
        now = str(api.repo_info(target.repository, timeout=_SECONDS).sha)
        return "" if now == before or _differences(api, parcel.files, target, now) else now
    except Exception:  # asked beside another failure, which is told
        return ""


def _differences(api: Any, files: Sequence[Sent], target: Target, commit: str) -> list[str]:
    """The files that are not in a commit with the size and the digest that they have here."""
    found = {
        each.path: each for each in api.get_paths_info(target.repository, [x.name for x in files], revision=commit)
    }
    wrong = []
    for each in files:
        there = found.get(each.name)
        if there is None or there.size != each.size or not _same(each, there):
            wrong.append(each.name)
    return wrong


def _same(sent: Sent, there: Any) -> bool:
    """Whether a hub tells the digest of a file: of a large one its sha256, of another that of git."""
    if there.lfs is not None:
        return bool(there.lfs.sha256 == sent.sha256)
    content = sent.source if isinstance(sent.source, bytes) else sent.source.read_bytes()
    return bool(there.blob_id == sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())


@contextmanager
def _told(where: str, state: _State, when: str) -> Iterator[None]:
    """Tell what a hub, its storage or the network did as a problem with its remedy."""
    try:
        yield
    except FtcliError:
        raise
    except Exception as error:  # its library lets through those of three http and storage libraries
        _refuse(error, where, state, when)


_REMEDIES = {
    401: "its token is not valid, or not for this hub: log in with `hf auth login`, or set HF_TOKEN",
    402: "the account has no room or no plan for it: look at its settings",
    403: "the token may not write there: take one with the right to write, or a repository of your own",
    404: "check the spelling of the repository",
    409: "somebody changed the repository meanwhile, or has one of that name: look at it, then push again",
    412: "somebody changed the repository meanwhile: look at it, then push again",
    413: "a file is larger than it takes: ftcli export --to folder writes files of at most 5 GB",
    429: "too many requests: wait, then push again; it goes on where it stopped",
}


def _refuse(error: Exception, where: str, state: _State, when: str) -> NoReturn:
    chain: BaseException | None = error
    while chain is not None and getattr(chain, "response", None) is None:
        chain = chain.__cause__
    status = getattr(getattr(chain, "response", None), "status_code", None)
    if status is not None:
        message = _cleaned(str(getattr(chain, "server_message", None) or ""))
        said = f"answered HTTP {status}" + (f" ({message})" if message else "")
        again = "push again; it goes on where it stopped" if status >= 500 else "look at what it says"
        fix = _REMEDIES.get(status, again)
    else:
        said = f"could not be reached or was cut off ({type(error).__name__}: {_cleaned(str(error))})"
        fix = "check the network and HF_ENDPOINT, then push again: it goes on where it stopped"
    if "xet" in f"{type(error).__module__} {error}".lower():
        fix += "; for a hub without Xet storage set HF_HUB_DISABLE_XET=1"
    what = f"{endpoint()} {said} {when}; {state.told}"
    raise ConfigError(Problem(where, what, fix)) from None


def _cleaned(text: str) -> str:
    """The first line of what a library says, without what is secret."""
    from huggingface_hub import get_token

    line = one_line(next((each for each in text.splitlines() if each.strip()), ""))[:200]
    token = get_token()
    return _QUERY.sub("?…", line.replace(token, "…") if token else line)
