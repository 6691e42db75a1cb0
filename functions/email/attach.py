"""The files of a mail, fetched when it is sent: only from its tenant's own folder of the one bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from functions.aws import s3, ses
from functions.email.settings import settings

if TYPE_CHECKING:
    from functions.email.payloads import Attachment


def attached(mail: ses.Mail, attachments: Sequence[Attachment], tenant_id: UUID) -> ses.Mail:
    """The mail with its files. Raises `Refused` where one is not the tenant's, or not what was announced."""
    return replace(mail, files=[_fetch(file, tenant_id) for file in attachments]) if attachments else mail


def _fetch(file: Attachment, tenant_id: UUID) -> ses.File:
    if file.bucket != settings().attachment_bucket or not file.key.startswith(f"{tenant_id}/"):
        raise ses.Refused("an attachment lies outside of the tenant's own folder of the attachment bucket")
    content = s3.read(file.bucket, file.key, most=file.size)
    if len(content) != file.size:
        raise ses.Refused(f"the attachment {file.file_name!r} is not of the size announced")
    return ses.File(file.file_name, file.content_type, content)
