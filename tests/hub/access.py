"""Who may see and change what; every refusal is worded and coded like the Hub's."""

from __future__ import annotations

from tests.hub.messages import Refusal
from tests.hub.storage import Commit, Repo, Store, User

CREDENTIALS = "Invalid username or password."


def user_of(store: Store, authorization: str | None) -> User | None:
    """The user of a token; no token is nobody, a wrong one is refused."""
    if not authorization:
        return None
    user = store.users.get(authorization.removeprefix("Bearer ").strip())
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def repository(store: Store, name: str, user: User | None) -> Repo:
    """A repository that somebody may know of."""
    repo = store.repos.get(name)
    if repo is None or (repo.private and not (user and user.owns(repo.owner))):
        # The Hub tells nobody whether a repository is missing or private.
        if user is None:
            raise Refusal(401, CREDENTIALS, "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")
    if repo.disabled:
        raise Refusal(403, "Access to this resource is disabled.")
    return repo


def revision(repo: Repo, name: str) -> Commit:
    """The commit that a revision names."""
    commit = repo.resolve(name)
    if commit is None:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return commit


def files_of(repo: Repo, user: User | None) -> None:
    """Refuse the files of a gated repository to those who were not accepted."""
    if not repo.gated or (user and (user.owns(repo.owner) or user.name in repo.accepted)):
        return
    if user is None:
        text = f"Access to model {repo.id} is restricted. You must have access to it and be authenticated to access it."
        raise Refusal(401, text + " Please log in.", "GatedRepo")
    text = f"Access to model {repo.id} is restricted and you are not in the authorized list."
    raise Refusal(403, f"{text} Visit /{repo.id} to ask for access.", "GatedRepo")


def somebody(user: User | None) -> User:
    """Refuse those without a token."""
    if user is None:
        raise Refusal(401, CREDENTIALS)
    return user


def writer(user: User | None, namespace: str) -> User:
    """Refuse those who may not write in a namespace."""
    user = somebody(user)
    if user.role != "write" or not user.owns(namespace):
        what = f'You don\'t have the rights to create a model under the namespace "{namespace}"'
        raise Refusal(403, f"Forbidden: you must use a write token to upload to a repository. {what}")
    return user
