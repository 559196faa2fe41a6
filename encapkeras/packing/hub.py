"""Packed models on the Hugging Face hub: `encapkeras push`, `encapkeras pull`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from encapkeras.errors import PackedModelError, printable
from encapkeras.files import LONGEST_REASON
from encapkeras.packing.packed_folder import check_free, check_whole, digests, write_folder
from encapkeras.packing.zoo import SUMS
from encapkeras.text import cut


def push(folder: Path, repository: str, *, private: bool = False, endpoint: str | None = None) -> str:
    """Upload a packed folder to the hub: its own files alone, in one commit.

    You must be logged in, by `hf auth login` or by the environment variable HF_TOKEN.

    Args:
        folder: A packed folder; it is checked first.
        repository: `user/name`; it is made if it does not exist.
        private: Whether a repository that is made is private.
        endpoint: Another hub than huggingface.co, such as `https://hub.example.org`.

    Returns:
        The address of the commit.

    Raises:
        PackedModelError: The folder has been changed, or the hub refuses it or cannot be reached.
    """
    check_whole(folder)
    api = huggingface_hub.HfApi(endpoint=endpoint)
    with _explained(f"'{printable(str(folder))}' could not be uploaded to '{printable(repository)}'"):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*digests(folder), SUMS],
            commit_message="Upload a model packed by encapkeras",
        )
    return str(commit.commit_url)


def pull(
    repository: str,
    output: Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Download a packed folder from the hub: the files alone that its hashes name, which are then checked.

    Args:
        repository: `user/name`.
        output: The folder, new or empty; it appears whole or not at all.
        revision: A branch, tag or commit; by default the newest.
        endpoint: As for `push`.
        overwrite: Whether a packed folder in its place may be replaced.

    Returns:
        `output`, for `encapkeras.load`.

    Raises:
        PackedModelError: There is no such repository, it is not that of a packed model or has been changed, the hub
            cannot be reached, or the folder is not free.
    """
    check_free(output, overwrite)
    api = huggingface_hub.HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as made:
        fetched = Path(made)
        with _explained(f"'{printable(repository)}' could not be downloaded"):
            commit = api.model_info(repository, revision=revision).sha  # so that all files are of one commit
            api.hf_hub_download(repository, SUMS, revision=commit, local_dir=fetched)
            names = digests(fetched, repository)
            for name in names:
                api.hf_hub_download(repository, name, revision=commit, local_dir=fetched)
        check_whole(fetched, repository)

        def write(folder: Path) -> None:
            for name in names:
                shutil.copyfile(fetched / name, folder / name)

        write_folder(output, write)
    return output


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Make one message of each way in which the hub, or the way to it, fails."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise PackedModelError(f"{what}: it has no such revision") from error
    except RepositoryNotFoundError as error:
        raise PackedModelError(
            f"{what}: the hub has no such repository, or shows it only to others. Log in with: hf auth login"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise PackedModelError(
            f"{what}: it has no {SUMS}, or not all files that it names, so it is not a packed model"
        ) from error
    except (PackedModelError, MemoryError):
        raise
    except Exception as error:  # what the library, the network and the disk raise has no common class
        response = getattr(error, "response", None)
        hint = ". Log in with: hf auth login" if getattr(response, "status_code", 0) in (401, 403) else ""
        raise PackedModelError(f"{what}: {_first_line(error)}{hint}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cut(printable(lines[0]).rstrip("."), LONGEST_REASON)
