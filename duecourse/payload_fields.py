"""The fields of a payload's contract in words: type, default and every rule, those of its validators included."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel

FORMATS = {"uuid": "UUID", "date": "date", "date-time": "instant with a time zone"}
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


@dataclass(frozen=True, slots=True)
class PayloadField:
    """One field, by its path: `attachments[].size`."""

    path: str
    type: str
    required: bool
    default: str
    rules: str


def fields(contract: type[BaseModel]) -> list[PayloadField]:
    """Every field of a contract, those of its parts after the field that holds them."""
    schema = contract.model_json_schema(by_alias=True)
    return list(_fields(contract, schema, schema.get("$defs", {}), ""))


def _fields(
    model: type[BaseModel], schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str
) -> Iterator[PayloadField]:
    told = _docstrings(model)
    for name, field in model.model_fields.items():
        key = field.alias or name
        entry = schema["properties"][key]
        shape = _unless_null(entry)
        items = shape.get("items", {})
        path = f"{prefix}{key}{'[]' if items else ''}"
        rules = [
            *_limits(shape),
            *(f"Each: {rule}" for rule in _limits(items)),
            *_validators(field),
            told.get(name, ""),
        ]
        yield PayloadField(
            path,
            type=_type(shape),
            required=key in schema.get("required", ()),
            default="no" if entry.get("default") in (None, "", [], {}) else f"no: {json.dumps(entry['default'])}",
            rules=" ".join(rule for rule in rules if rule),
        )
        if "$ref" in (items or shape):
            part = next(_models(field.annotation))
            yield from _fields(part, definitions[part.__name__], definitions, f"{path}.")


def _unless_null(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first of a field's alternatives that is not null, or the field itself."""
    return next((option for option in entry.get("anyOf", ()) if option.get("type") != "null"), entry)


def _type(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return " or ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if entry.get("type") == "array":
        return f"list of {_type(entry['items'])}"
    if "$ref" in entry or entry.get("type") == "object":
        return "object"
    return FORMATS.get(entry.get("format", ""), TYPES.get(entry.get("type", ""), "anything"))


def _limits(entry: Mapping[str, Any]) -> Iterator[str]:
    for low, high, unit in (
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minimum", "maximum", ""),
    ):
        least, most = entry.get(low), entry.get(high)
        if most is not None:
            yield f"{least:,} to {most:,}{unit}." if least is not None else f"At most {most:,}{unit}."
        elif least is not None:
            yield f"At least {least:,}{unit}."
    if "pattern" in entry:
        yield f"Like `{entry['pattern']}`."


def _validators(field: Any) -> Iterator[str]:
    """What the validators of a field ask for: the first sentence of each one's docstring."""
    for validator in [*field.metadata, *_metadata(field.annotation)]:
        if isinstance(validator, AfterValidator) and (text := inspect.getdoc(validator.func)):
            yield text.split(" Raises")[0].split("\n\n")[0]


def _metadata(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for argument in get_args(annotation):
        yield from _metadata(argument)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What stands below each field in the source, of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base is not BaseModel and issubclass(base, BaseModel):
            [definition] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(definition, ast.ClassDef)  # noqa: S101 - for the type checker
            for field, text in zip(definition.body, definition.body[1:], strict=False):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(words))),
                    ):
                        found[name] = " ".join(words.split())
    return found
