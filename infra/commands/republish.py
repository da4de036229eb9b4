"""`republish`: say again what readers keep projections of."""

from __future__ import annotations

import importlib

import typer

from infra.commands.options import DataDir

CUSTOMERS, ASSETS = "BROKAGE_CUSTOMERS_DATABASE_URL", "BROKAGE_ASSETS_DATABASE_URL"


def register(app: typer.Typer) -> None:
    app.command()(republish)


def republish(data_dir: DataDir = None) -> None:
    """Say every customer and instrument again, for a reader that is new or was restored. Who knows them already is not
    disturbed."""
    from infra.commands.environment import use_databases
    from infra.runtime.failures import NoSystem
    from shared.db import Database
    from shared.db.engine import DatabaseUnavailable

    environment = use_databases(data_dir, CUSTOMERS, ASSETS)
    customers = importlib.import_module("customer_service.service.customers")
    instruments = importlib.import_module("asset_service.service.instruments")
    customer_database = Database(environment[CUSTOMERS], name="customer_service republish", pool_size=1)
    asset_database = Database(environment[ASSETS], name="asset_service republish", pool_size=1)
    try:
        # Instruments first: cash and shares are few, and orders need both.
        instrument_count = asset_database.run(instruments.republish)
        customer_count = customers.republish(customer_database)
    except DatabaseUnavailable as error:
        raise NoSystem(f"the database of {str(error).split()[0]} does not answer") from None
    finally:
        customer_database.close()
        asset_database.close()
    print(f"said again: {customer_count:,} customers, {instrument_count:,} instruments")
