"""What every route's models share. Requests refuse what they do not know; responses are declared in full."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class Body(BaseModel):
    """Base of request bodies: an unknown member is an error, not a filter that silently does nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class View(BaseModel):
    """Base of responses."""

    model_config = ConfigDict(frozen=True)


class Page(View, Generic[Item]):
    """A part of a list. `next_cursor` goes on from here; null: this was the last one."""

    items: list[Item]
    next_cursor: str | None = None


class FieldError(View):
    """One value that is wrong."""

    location: str = Field(examples=["query.limit"])
    reason: str


class ProblemDetails(BaseModel):
    """RFC 9457. Some answers have members of their own, such as the `state` a job was found in."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] = Field(default_factory=list)


Json = dict[str, Any]
"""A JSON object whose members differ from row to row."""
