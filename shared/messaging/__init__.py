"""The delivery protocol: outbox -> relay -> broker -> inbox -> acknowledgement. See docs/adr/0001-messaging.md."""
