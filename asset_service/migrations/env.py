from asset_service.models import metadata
from shared.db import migrations

migrations.run(metadata, "BROKAGE_ASSETS_DATABASE_URL")
