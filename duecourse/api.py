"""A client of the management API, for the command line: problem details become one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from functions.core.errors import DuecourseError

TIMEOUT_SECONDS = 30.0
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ApiError(DuecourseError):
    """The API could not be asked, or refused; the message is its own reason."""


class Refused(ApiError):
    """The API answered with a problem document."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Api:
    """The API at an address. The token goes to this machine or over TLS, and nowhere else."""

    url: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ApiError(f"the API's address is a URL such as https://api.example.com, not {self.url!r}")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ApiError(f"{self.url} would send the token in the clear: use https")

    def get(self, *path: str, **parameters: Any) -> Any:
        """The JSON at a path, whose segments are quoted here; parameters that are None are left out."""
        return self._send("GET", path, params=_given(parameters)).json()

    def health(self, part: str) -> Any:
        """The page /health/PART, which answers 503 when its verdict is bad."""
        return self._send("GET", ("health", part), also=503).json()

    def text(self, *path: str) -> str:
        """The text at a path."""
        return self._send("GET", path).text

    def post(self, *path: str, body: Any = None, **parameters: Any) -> Any:
        """What the API says after a POST."""
        return self._send("POST", path, params=_given(parameters), json=body).json()

    def items(self, *path: str, limit: int, **parameters: Any) -> Iterator[Any]:
        """Up to `limit` items of a list, as many pages as that takes.

        A page may be empty and still have a cursor: a filter that few rows pass is searched in parts.
        """
        cursor = None
        while limit > 0:
            page = self.get(*path, limit=min(limit, 200), cursor=cursor, **parameters)
            yield from page["items"]
            limit -= len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _send(self, method: str, path: tuple[str, ...], *, also: int | None = None, **options: Any) -> httpx.Response:
        url = "/".join([self.url.rstrip("/"), *(quote(part, safe="") for part in path)])
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            response = httpx.request(
                method,
                url,
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                trust_env=self.url.startswith("https:"),  # a proxy does not know this machine
                **options,
            )
        except httpx.HTTPError as error:
            raise ApiError(f"the API at {self.url} cannot be reached ({error}): is it deployed and running?") from None
        is_problem = response.headers.get("Content-Type", "").startswith("application/problem+json")
        if response.is_success or (response.status_code == also and not is_problem):
            return response
        raise Refused(_reason(response), response.status_code)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _reason(response: httpx.Response) -> str:
    """A problem document as one sentence (RFC 9457)."""
    try:
        problem = response.json()
        reason = str(problem["detail"] or problem["title"])
        wrong = "; ".join(f"{error['location']}: {error['reason']}" for error in problem.get("errors", ()))
    except (ValueError, KeyError, TypeError):
        return f"the API answered {response.status_code} {response.reason_phrase}, without a reason"
    return f"{reason} ({wrong})" if wrong else reason
