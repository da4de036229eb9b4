from processor.models import metadata
from shared.db import migrations

migrations.run(metadata, "BROKAGE_PROCESSOR_DATABASE_URL")
