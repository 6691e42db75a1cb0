"""The mails: what each says, how it looks, and how it is sent."""
