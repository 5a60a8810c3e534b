"""Who may ask a server of ours: whoever knows the token in its address and, for writing, its own page only."""

from __future__ import annotations

import hmac
import secrets


def new_token() -> str:
    """A random first part of every address, which neither other users nor other pages can guess."""
    return secrets.token_urlsafe(24)


def below(path: str, token: str) -> str | None:
    """What a path asks for below the token, without the query; None when the token is another or missing."""
    parts = path.partition("?")[0].split("/", 2)
    given = parts[1] if len(parts) == 3 else ""
    return parts[2] if hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()) else None


def own_page(origin: str | None, host: str | None) -> bool:
    """Whether a request's Origin is the very server that its Host names. A request without an Origin is no page's."""
    return bool(host) and origin == f"http://{host}"
