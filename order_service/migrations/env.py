from order_service.models import metadata
from shared.db import migrations

migrations.run(metadata, "BROKAGE_ORDERS_DATABASE_URL")
