"""The notifier in a relay process: it sends what is due. Without a mail server there is nothing to do."""

from collections.abc import Sequence

from notifier import documents
from notifier.documents import NAME
from notifier.sender import EmailSender
from notifier.settings import Settings
from shared.messaging.runtime import Loop, ServiceRelay


def start() -> Sequence[Loop]:
    settings = Settings()
    if settings.smtp_url is None:
        return []
    return [EmailSender(documents.open_database(settings, pool_size=2), settings)]


relay = ServiceRelay(NAME, start)
