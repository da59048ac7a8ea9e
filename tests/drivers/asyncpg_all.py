"""asyncpg as its users use it: everything prepared, everything binary, types introspected, connections pooled.

asyncpg_all.py write  --dsn URL --record FILE    do everything, assert what Postgres answers, save what was acknowledged
asyncpg_all.py verify --dsn URL --record FILE    compare a database with the saved record, row by row
"""

import asyncio
import datetime as dt
import decimal
import ipaddress
import io
import json
import uuid

import asyncpg

from record import COLUMNS, Record, arguments, compare

UTC = dt.timezone.utc


async def codecs(conn):
    for kind in ("json", "jsonb"):
        await conn.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def connect(dsn):
    conn = await asyncpg.connect(dsn)
    await codecs(conn)
    return conn


async def rows_of(conn, table):
    return [tuple(row) for row in await conn.fetch(f"SELECT {COLUMNS[table]} FROM {table}")]


async def check(conn, record, where):
    for table in COLUMNS:
        compare(record.table(table), table, await rows_of(conn, table), where)


async def fails(error, awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as caught:
        assert type(caught) is error, f"expected {error.__name__}, got {type(caught).__name__}: {caught}"
        return caught
    raise AssertionError(f"expected {error.__name__}, but it succeeded")


async def prepared(dsn, record):
    """Prepared statements: described parameters and columns, run again and again, from one and from many."""
    conn = await connect(dsn)
    insert = await conn.prepare("INSERT INTO unit (name, weight) VALUES ($1, $2) RETURNING id, name, weight, created")
    assert [p.name for p in insert.get_parameters()] == ["text", "int4"], insert.get_parameters()
    assert [(a.name, a.type.name) for a in insert.get_attributes()] == [
        ("id", "uuid"), ("name", "text"), ("weight", "int4"), ("created", "timestamptz")], insert.get_attributes()
    for i in range(10):
        # fetchrow asks for one row of the portal, fetch for all of them.
        row = await insert.fetchrow(f"a-prepared-{i}", i + 1) if i % 2 else (await insert.fetch(f"a-prepared-{i}", i + 1))[0]
        assert row["name"] == f"a-prepared-{i}"
        assert i % 2 or insert.get_statusmsg() == "INSERT 0 1", insert.get_statusmsg()
        record.add("unit", row)
    select = await conn.prepare("SELECT id FROM unit WHERE name = $1")
    for row in record.rows["unit"][-10:]:
        assert await select.fetchval(row[1]) == row[0]
    assert await select.fetchval("nobody") is None
    assert await conn.execute("UPDATE unit SET weight = weight + $1 WHERE name = $2", 100, "a-prepared-0") == "UPDATE 1"
    key = next(row[0] for row in record.rows["unit"] if row[1] == "a-prepared-0")
    record.set("unit", (key,), weight=101)
    await check(conn, record, "prepared")
    await conn.reload_schema_state()
    await conn.close()


async def every_type(dsn, record):
    conn = await connect(dsn)
    names = COLUMNS["every_type"]
    rows = [
        (
            11, True, -32768, 2147483647, -9223372036854775808, decimal.Decimal("12345678901234.567890"), 1.5, 0.1,
            "naïve “quotes” ' \\ % \t\n", "varchar", "abc   ", uuid.uuid4(), dt.date(2026, 11, 21), dt.time(23, 59, 59, 999999),
            dt.datetime(2026, 11, 21, 22, 20), dt.datetime(2026, 11, 21, 22, 20, 1, 123456, UTC),
            dt.timedelta(days=3, hours=4, microseconds=5), {"a": [1, None]}, {"k": {"ü": 1.25}}, bytes(range(256)),
            [1, None, -3], ["", "a,b", 'q"q', None, "NULL"], [uuid.uuid4(), uuid.uuid4()], "gusty", ipaddress.ip_address("10.1.2.3"),
        ),
        (12, *([None] * 24)),
        (
            13, False, 0, 0, 0, decimal.Decimal("-0.000001"), 0.25, 1e300, "", "", "      ", uuid.UUID(int=0), dt.date(1, 1, 1),
            dt.time(0, 0), dt.datetime(1999, 12, 31), dt.datetime(1970, 1, 1, tzinfo=UTC), dt.timedelta(0), {}, {}, b"",
            [], [], [], "calm", ipaddress.ip_interface("2001:db8::/64"),
        ),
    ]
    marks = ", ".join(f"${i + 1}" for i in range(25))
    for row in rows:
        got = await conn.fetchrow(f"INSERT INTO every_type ({names}) VALUES ({marks}) RETURNING {names}", *row)
        differences = [(g, r) for g, r in zip(got, row) if g != r and str(g) != str(r)]
        assert not differences, differences
        record.add("every_type", got)
        again = await conn.fetchrow(f"SELECT {names} FROM every_type WHERE id = $1", row[0])
        assert tuple(again) == tuple(got), (again, got)
    # Found by a value of each type, not only by the key.
    for column, value in (("u", rows[0][11]), ("d", rows[0][12]), ("tz", rows[0][15]), ("n", rows[0][5]), ("jb", rows[0][18]),
                          ("ba", rows[0][19]), ("ia", rows[0][20]), ("m", "gusty"), ("iv", rows[0][16]), ("b", True), ("f8", 0.1)):
        assert await conn.fetchval(f"SELECT id FROM every_type WHERE {column} = $1 AND id > 10", value) == 11, column
    await conn.execute("UPDATE every_type SET f8 = f8 + $1, ta = $2, m = $3, d = d + 1, ba = $4 WHERE id = 11",
                       1.0, ["x", None], "storm", b"\x00\xff")
    record.set("every_type", (11,), f8=1.1, ta=["x", None], m="storm", d=dt.date(2026, 11, 22), ba=b"\x00\xff")
    await check(conn, record, "every type")
    await conn.close()


async def batches(dsn, record):
    """executemany: all rows or none."""
    conn = await connect(dsn)
    at = dt.datetime(2026, 2, 1, tzinfo=UTC)
    batch = [(200, at + dt.timedelta(seconds=i), i / 7) for i in range(200)]
    await conn.executemany("INSERT INTO reading (device, at, value) VALUES ($1, $2, $3)", batch)
    record.load("reading", batch)
    await check(conn, record, "executemany")
    bad = [(201, at, 1.0), (201, at + dt.timedelta(seconds=1), 2.0), (201, at, 3.0)]
    error = await fails(asyncpg.UniqueViolationError, conn.executemany("INSERT INTO reading VALUES ($1, $2, $3)", bad))
    assert error.constraint_name == "reading_pkey", error.constraint_name
    await check(conn, record, "failed executemany")
    await conn.executemany("UPDATE reading SET value = $3 WHERE device = $1 AND at = $2", [(d, t, v * 2) for d, t, v in batch[:50]])
    for device, when, value in batch[:50]:
        record.set("reading", (device, when), value=value * 2)
    await conn.executemany("DELETE FROM reading WHERE device = $1 AND at = $2", [b[:2] for b in batch[150:]])
    for row in batch[150:]:
        record.remove("reading", *row[:2])
    await check(conn, record, "executemany of updates and deletes")
    await conn.close()


async def copies(dsn, record):
    """copy_records_to_table is COPY in binary; copy_from_query and copy_to_table are in text and csv."""
    conn = await connect(dsn)
    at = dt.datetime(2026, 4, 1, tzinfo=UTC)
    batch = [(700, at + dt.timedelta(seconds=i), None if i % 5 == 0 else i / 9) for i in range(1200)]
    assert await conn.copy_records_to_table("reading", records=batch, columns=["device", "at", "value"]) == "COPY 1200"
    record.load("reading", batch)
    out = io.BytesIO()
    query = "SELECT device + 1, at, value FROM reading WHERE device = $1 ORDER BY at"
    assert await conn.copy_from_query(query, 700, output=out, format="csv", header=True) == "COPY 1200"
    out.seek(0)
    assert await conn.copy_to_table("reading", source=out, format="csv", header=True) == "COPY 1200"
    record.load("reading", [(701, when, value) for _, when, value in batch])
    await check(conn, record, "copies")
    error = await fails(asyncpg.UniqueViolationError, conn.copy_records_to_table("reading", records=[batch[7]]))
    assert error.constraint_name == "reading_pkey", error.constraint_name
    await check(conn, record, "a copy that fails")
    await conn.close()


async def transactions(dsn, record):
    conn = await connect(dsn)
    other = await connect(dsn)
    async with conn.transaction():
        unit = await conn.fetchrow("INSERT INTO unit (name, weight) VALUES ('a-tx', 1) RETURNING id, name, weight, created")
        assert await other.fetchval("SELECT count(*) FROM unit WHERE name = 'a-tx'") == 0
        try:
            async with conn.transaction():
                await conn.execute("UPDATE unit SET weight = 50 WHERE id = $1", unit["id"])
                async with conn.transaction():
                    await conn.execute("DELETE FROM unit WHERE id = $1", unit["id"])
                    assert await conn.fetchval("SELECT count(*) FROM unit WHERE id = $1", unit["id"]) == 0
                raise RuntimeError("the program's own")
        except RuntimeError:
            pass
        assert await conn.fetchval("SELECT weight FROM unit WHERE id = $1", unit["id"]) == 1
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO unit (name) VALUES ('a-tx')")
        except asyncpg.UniqueViolationError:
            pass
        async with conn.transaction():
            observation = await conn.fetchrow(
                "INSERT INTO observation (unit_id, started) VALUES ($1, now()) RETURNING id, unit_id, status, started, n", unit["id"])
        # now() is the transaction's start, the same in each of its statements.
        assert await conn.fetchval("SELECT now()") == observation["started"]
    record.add("unit", unit)
    record.add("observation", observation)
    assert await other.fetchval("SELECT count(*) FROM unit WHERE name = 'a-tx'") == 1
    await check(other, record, "nested transactions")

    transaction = conn.transaction(isolation="repeatable_read")
    await transaction.start()
    before = await conn.fetchval("SELECT count(*) FROM log_line")
    line = await other.fetchrow("INSERT INTO log_line (line) VALUES ('meanwhile') RETURNING at, line")
    record.add("log_line", line)
    assert await conn.fetchval("SELECT count(*) FROM log_line") == before
    await transaction.rollback()
    assert await conn.fetchval("SELECT count(*) FROM log_line") == before + 1

    async with conn.transaction(readonly=True):
        await fails(asyncpg.ReadOnlySQLTransactionError, other_write(conn))
    async with conn.transaction():
        values = []
        async for row in conn.cursor("SELECT value FROM reading WHERE device = 200 ORDER BY at", prefetch=7):
            values.append(row[0])
        assert values == [r[2] for r in sorted((r for r in record.rows["reading"] if r[0] == 200), key=lambda r: r[1])]
        cursor = await conn.cursor("SELECT name FROM unit WHERE name LIKE $1 ORDER BY name", "a-prepared-%")
        assert [r[0] for r in await cursor.fetch(3)] == ["a-prepared-0", "a-prepared-1", "a-prepared-2"]
        assert await cursor.forward(2) == 2
        assert (await cursor.fetchrow())[0] == "a-prepared-5"
    await conn.close()
    await other.close()


async def other_write(conn):
    async with conn.transaction():
        await conn.execute("INSERT INTO log_line (line) VALUES ('no')")


async def error_classes(dsn, record):
    conn = await connect(dsn)
    known = record.rows["unit"][0][0]
    error = await fails(asyncpg.UniqueViolationError, conn.execute("INSERT INTO unit (name) VALUES ($1)", "a-tx"))
    assert (error.sqlstate, error.constraint_name, error.detail) == ("23505", "unit_name_key", "Key (name)=(a-tx) already exists.")
    await fails(asyncpg.UniqueViolationError, conn.execute("INSERT INTO unit (name) VALUES ($1)", "replicated-1"))
    await fails(asyncpg.ForeignKeyViolationError, conn.execute("INSERT INTO observation (unit_id) VALUES ($1)", uuid.uuid4()))
    await fails(asyncpg.ForeignKeyViolationError, conn.execute("DELETE FROM unit WHERE name = 'a-tx'"))
    await fails(asyncpg.CheckViolationError, conn.execute("INSERT INTO unit (name, weight) VALUES ('w', $1)", 0))
    await fails(asyncpg.NotNullViolationError, conn.execute("INSERT INTO unit (name) VALUES ($1)", None))
    await fails(asyncpg.StringDataRightTruncationError,
                conn.execute("INSERT INTO observation (unit_id, status) VALUES ($1, $2)", known, "thirteen chars"))
    await fails(asyncpg.InvalidTextRepresentationError, conn.execute("INSERT INTO unit (id, name) VALUES ('not a uuid', 'x')"))
    await fails(asyncpg.UndefinedTableError, conn.fetch("SELECT * FROM no_such_table"))
    await fails(asyncpg.PostgresSyntaxError, conn.execute("INSERT INTO unit VALUES VALUES"))
    await fails(asyncpg.DivisionByZeroError, conn.execute("UPDATE reading SET value = 1 / (device - device)"))
    try:
        await conn.execute("INSERT INTO unit (weight) VALUES ($1)", "text")
        raise AssertionError("asyncpg should have refused the value")
    except asyncpg.DataError:
        pass
    await check(conn, record, "errors")
    # Several statements in one string are one transaction.
    await fails(asyncpg.UniqueViolationError,
                conn.execute("INSERT INTO log_line (line) VALUES ('lost'); INSERT INTO unit (name) VALUES ('a-tx')"))
    await check(conn, record, "script that failed")
    await conn.close()


async def pooled(dsn, record):
    """A pool: its reset query between uses, several connections at once, closing."""
    async with asyncpg.create_pool(dsn, min_size=3, max_size=3, init=codecs) as pool:
        async def one(i):
            async with pool.acquire() as conn:
                async with conn.transaction():
                    unit = await conn.fetchrow(
                        "INSERT INTO unit (name, weight) VALUES ($1, $2) RETURNING id, name, weight, created", f"pooled-{i}", i + 1)
                    observation = await conn.fetchrow(
                        "INSERT INTO observation (unit_id) VALUES ($1) RETURNING id, unit_id, status, started, n", unit["id"])
            return unit, observation

        for unit, observation in await asyncio.gather(*(one(i) for i in range(12))):
            record.add("unit", unit)
            record.add("observation", observation)
        async with pool.acquire() as conn:
            await check(conn, record, "pool")
            try:
                await conn.fetchval("SELECT count(pg_sleep(0.01)) FROM generate_series(1, 100000)", timeout=0.2)
                raise AssertionError("the query should have been cancelled")
            except asyncio.TimeoutError:
                pass
            assert await conn.fetchval("SELECT 1") == 1


async def write(dsn, path):
    record = Record()
    conn = await connect(dsn)
    for table in COLUMNS:
        record.load(table, await rows_of(conn, table))
    await conn.close()
    for part in (prepared, every_type, batches, copies, transactions, error_classes, pooled):
        await part(dsn, record)
        print(f"asyncpg: {part.__name__} ok", flush=True)
    record.save(path)


async def verify(dsn, path):
    with open(path, encoding="utf-8") as source:
        expected = json.load(source)
    conn = await connect(dsn)
    for table in COLUMNS:
        compare(expected[table], table, await rows_of(conn, table), "after the drain")
    await conn.close()
    print("asyncpg: verified", sum(len(rows) for rows in expected.values()), "rows")


if __name__ == "__main__":
    args = arguments(__doc__)
    asyncio.run({"write": write, "verify": verify}[args.action](args.dsn, args.record))
