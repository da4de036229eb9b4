from customer_service.models import metadata
from shared.db import migrations

migrations.run(metadata, "BROKAGE_CUSTOMERS_DATABASE_URL")
