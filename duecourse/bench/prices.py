"""List prices, in dollars, without free tiers or discounts: the one place to change them."""

DATE = "2026-11-24"
REGION = "us-east-1"

LAMBDA_REQUEST = 0.20 / 1_000_000
LAMBDA_GB_SECOND = 0.0000133334
"""arm64, first tier. Both: https://aws.amazon.com/lambda/pricing/"""
MEMORY_MB = 1024
"""Of the workers, in template.yaml."""
MEMORY_MB_OF_ONE_CPU = 1769
"""https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""

SQS_REQUEST = 0.40 / 1_000_000
"""Standard queues; FIFO ones cost 0.50. A request carries up to ten messages, 64 KB together.
https://aws.amazon.com/sqs/pricing/"""
SQS_MESSAGES_PER_CALL = 10
