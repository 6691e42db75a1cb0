"""Event source mappings: what carries a queue's messages to its worker, and can be switched off."""

from __future__ import annotations

from dataclasses import dataclass

from functions.aws.clients import client

ENABLED = frozenset({"Enabled", "Enabling"})
DISABLED = frozenset({"Disabled", "Disabling"})
"""AWS takes up to a minute from the one to the other; any other state is a change under way."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping; `state` in AWS's words."""

    uuid: str
    state: str


def mapping_of(function_name: str) -> Mapping | None:
    """The mapping that feeds a function, None where there is none (or no such function)."""
    lambdas = client("lambda")
    try:
        found = lambdas.list_event_source_mappings(FunctionName=function_name)["EventSourceMappings"]
    except lambdas.exceptions.ResourceNotFoundException:
        return None
    return Mapping(found[0]["UUID"], found[0]["State"]) if found else None


def all_mappings() -> dict[str, Mapping]:
    """Every mapping of the account and region by the name of the function it feeds: one call for a hundred of them."""
    pages = client("lambda").get_paginator("list_event_source_mappings").paginate()
    found = [item for page in pages for item in page["EventSourceMappings"]]
    return {item["FunctionArn"].split(":")[6]: Mapping(item["UUID"], item["State"]) for item in found}


def switch(mapping: Mapping, *, on: bool) -> Mapping:
    """Enable or disable it. Returns what AWS says of it, which is rarely done yet.

    Raises botocore's `ResourceInUseException` while another change is under way.
    """
    if mapping.state in (ENABLED if on else DISABLED):
        return mapping
    answer = client("lambda").update_event_source_mapping(UUID=mapping.uuid, Enabled=on)
    return Mapping(mapping.uuid, answer["State"])
