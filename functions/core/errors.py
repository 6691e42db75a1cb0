"""Every error of our own. The message is one sentence that names the cause and the fix.

DuecourseError
├── ConfigurationError      a setting is missing or wrong
├── ServiceAway             what we cannot work without does not answer: nobody's fault, and it passes
│   ├── DatabaseAway        PostgreSQL: no connection could be made, or it broke
│   └── SecretsAway         the secret store is throttled or does not answer
├── DatabaseNotMigrated     the schema is older than the code
├── TablesInUse             a change of tables was given up, so that nobody waits behind it
├── BadEvent                a function was invoked with an event that is not its own
├── UnknownJobType          no row in the catalogue
├── InvalidPayload          a payload that does not fulfil its job type's contract
├── RejectedMessage         a message nobody can understand: to the dead-letter queue, never retried as a job
├── NewerEnvelope           a message from a later release: handed back until that release is here
├── SharedTransaction       a job tried to end the transaction that it shares with others
└── LeaseLost               somebody else holds the job now: this run must not commit
"""

from __future__ import annotations


class DuecourseError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(DuecourseError):
    """A setting is missing or wrong; the message names it."""


class ServiceAway(DuecourseError):
    """A service that we cannot work without does not answer: to be tried again later, and no job's fault."""


class DatabaseAway(ServiceAway):
    """PostgreSQL could not be reached; the message says where it was looked for."""


class SecretsAway(ServiceAway):
    """The secret store is throttled or does not answer; the message says of which secret."""


class DatabaseNotMigrated(DuecourseError):
    """The database has no, or an older, schema; the message names the command that brings it up to date."""


class TablesInUse(DuecourseError):
    """A change of tables found them in use for too long; the message says by whom."""


class BadEvent(DuecourseError):
    """The function was invoked with an event it does not serve; the message says what it expects."""


class UnknownJobType(DuecourseError):
    """The job type has no row in the catalogue."""


class InvalidPayload(DuecourseError):
    """The payload does not fulfil the contract of its job type; the message says where, without the values."""


class RejectedMessage(DuecourseError):
    """The message cannot be understood; it goes to the dead-letter queue with this reason."""


class NewerEnvelope(DuecourseError):
    """The message was written by a later release; it is handed back until a worker of that release takes it."""


class SharedTransaction(DuecourseError):
    """A job tried to end the transaction that it shares with other jobs."""


class LeaseLost(DuecourseError):
    """The claim token no longer matches: the work of this run is rolled back."""
