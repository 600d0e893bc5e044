"""Names of what detection finds, shared by the policy that asks for it and the privacy layer that does it."""

KINDS = ("email", "phone", "card", "iban", "ssn", "national_id", "ip", "secret")
"""What is found without a pattern of the policy's own; docs/redaction.md says what each covers."""

LONGEST_CUSTOM = 256
"""Characters that a match of a policy's own pattern may have; what bounds how much of a stream is held back."""
