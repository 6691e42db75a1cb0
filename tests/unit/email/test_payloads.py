"""The contracts of the mail jobs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from functions.email import payloads
from functions.email.payloads import MAX_ATTACHMENT_BYTES

WHO = {"recipient_kind": "client", "recipient_id": "01979f3a-0000-7000-8000-000000000001"}
ID = "01979f3a-0000-7000-8000-000000000002"
FILE = {"bucket": "firm-files", "key": "a/b.pdf", "file_name": "b.pdf", "content_type": "application/pdf", "size": 10}

COMPLETE: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (payloads.Welcome, {"url": "https://example.com/w", "message": "Hello"}),
    (payloads.TaskAssignment, {"task_id": ID, "url": "https://example.com/t"}),
    (payloads.ServiceRequestUpdate, {"service_request_id": ID, "note": "Done"}),
    (payloads.PasswordReset, {"url": "https://example.com/r", "expires_at": "2026-03-02T15:00:00+00:00"}),
    (payloads.Invoice, {"invoice_id": ID, "attachments": [FILE], "note": "Thanks"}),
    (payloads.Custom, {"subject": "News", "body": "Text", "link": {"label": "More", "url": "https://example.com/"}}),
    (payloads.DocumentExpiryWarning, {"local_date": "2026-03-02"}),
    (payloads.FilingReminder, {"local_date": "2026-03-02"}),
    (payloads.Digest, {"local_date": "2026-03-02"}),
]


@pytest.mark.parametrize(("contract", "fields"), COMPLETE, ids=lambda value: getattr(value, "__name__", ""))
def test_each_contract_takes_what_it_names_and_nothing_else(contract: type[BaseModel], fields: dict[str, Any]) -> None:
    contract.model_validate(WHO | fields)
    with pytest.raises(ValidationError, match="address"):
        contract.model_validate(WHO | fields | {"address": "somebody@example.com"})
    with pytest.raises(ValidationError, match="recipient_id"):
        contract.model_validate({"recipient_kind": "client"} | fields)
    with pytest.raises(ValidationError, match="recipient_kind"):
        contract.model_validate(WHO | fields | {"recipient_kind": "tenant"})


def test_a_header_cannot_be_injected() -> None:
    custom = WHO | {"subject": "News", "body": "Text"}
    for field, value in {"subject": "News\r\nBcc: x@example.com", "body": "a\x00b"}.items():
        with pytest.raises(ValidationError, match=field):
            payloads.Custom.model_validate(custom | {field: value})
    with pytest.raises(ValidationError, match="file_name"):
        payloads.Attachment.model_validate(FILE | {"file_name": 'x.pdf"\r\nX: y'})
    with pytest.raises(ValidationError, match="content_type"):
        payloads.Attachment.model_validate(FILE | {"content_type": "text/plain\n"})
    with pytest.raises(ValidationError, match="bucket"):
        payloads.Attachment.model_validate(FILE | {"bucket": "firm-files\n"})


def test_a_reset_link_expires_at_an_instant_not_at_a_wall_clock_time() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        payloads.PasswordReset.model_validate(
            WHO | {"url": "https://example.com/r", "expires_at": "2026-03-02T15:00:00"}
        )


def invoice(*sizes: int) -> payloads.Invoice:
    files = [FILE | {"file_name": f"{number}.pdf", "size": size} for number, size in enumerate(sizes)]
    return payloads.Invoice.model_validate(WHO | {"invoice_id": ID, "attachments": files})


def test_the_attachments_together_are_bounded() -> None:
    invoice(MAX_ATTACHMENT_BYTES // 2, MAX_ATTACHMENT_BYTES - MAX_ATTACHMENT_BYTES // 2)
    with pytest.raises(ValidationError, match="together are over"):
        invoice(MAX_ATTACHMENT_BYTES // 2, MAX_ATTACHMENT_BYTES // 2 + 2)
    for sizes in ([MAX_ATTACHMENT_BYTES + 1], [0], [1] * 11):
        with pytest.raises(ValidationError):
            invoice(*sizes)


def test_two_attachments_cannot_have_one_name() -> None:
    files = [FILE, FILE | {"file_name": "B.PDF"}]
    with pytest.raises(ValidationError, match="same file name"):
        payloads.Invoice.model_validate(WHO | {"invoice_id": ID, "attachments": files})
