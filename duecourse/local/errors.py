"""Errors of the local stack. The message is one sentence that names the cause and the fix.

DuecourseError
└── LocalError              something on this machine is missing, in the way or broken
    ├── NotRunning          the command needs what `duecourse up` starts
    └── DeployFailed        CloudFormation refused the template or a resource
"""

from __future__ import annotations

from functions.core.errors import DuecourseError


class LocalError(DuecourseError):
    """Something on this machine is missing, in the way or broken."""


class NotRunning(LocalError):
    """The command needs what `duecourse up` starts."""


class DeployFailed(LocalError):
    """CloudFormation refused the template or could not make a resource."""
