"""amqtt's session, handler and broker, each behaviour overridden that would lose or leak something.

All overrides of amqtt 0.12.1 are in this package. Each says what amqtt does without it; what would be lost
or leaked is tested in `tests/contract/test_embedded_*.py`. docs/decisions/0002 tells why it is done this way.
"""
