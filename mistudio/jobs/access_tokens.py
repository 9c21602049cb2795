"""Access tokens that were typed in: held in memory for the jobs that need them, nowhere else."""

from __future__ import annotations

import threading


class AccessTokens:
    """A token per repository, for as long as the program runs.

    Job rows and files never hold a token. A job started again after a restart uses the token of
    the user's own Hugging Face token store, or says that one is needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}

    def keep(self, repo: str, token: str) -> None:
        """Hold the token that a repository is asked with; an empty one forgets it."""
        with self._lock:
            if token:
                self._tokens[repo] = token
            else:
                self._tokens.pop(repo, None)

    def of(self, repo: str) -> str | None:
        """The token kept for a repository, None to use the user's token store."""
        with self._lock:
            return self._tokens.get(repo)

    def __repr__(self) -> str:
        return f"AccessTokens({len(self._tokens)} held)"
