"""The event loop's Valkey client on a connection that is cut under it."""

import asyncio

import pytest
import uvloop

from shared.http.valkey import AsyncValkey, Unavailable


async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Good enough a server for clients that introduce themselves and ping."""
    while data := await reader.read(1_000):
        writer.write(b"+PONG\r\n" * data.count(b"PING") or b"+OK\r\n" * data.count(b"*"))
    writer.close()


async def cut_between_two_commands() -> None:
    server = await asyncio.start_server(pong, "127.0.0.1", 0)
    valkey = AsyncValkey(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    try:
        await valkey.command("PING")
        (connection,) = valkey._client.connection_pool._available_connections
        connection._writer.transport.abort()
        with pytest.raises(Unavailable):
            await valkey.command("PING")
    finally:
        await valkey.close()
        server.close()
        await asyncio.sleep(0.01)


def test_a_connection_that_was_cut_is_an_outage_and_no_error_of_ours() -> None:
    # uvloop says RuntimeError where asyncio's own loop only warns.
    uvloop.run(cut_between_two_commands())
