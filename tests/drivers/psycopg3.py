"""psycopg 3 as its users use it. Passes against an ordinary Postgres; must pass unchanged through pgoutpost.

psycopg3.py write  --dsn URL --record FILE    do everything, assert what Postgres answers, save what was acknowledged
psycopg3.py verify --dsn URL --record FILE    compare a database with the saved record, row by row
"""

import datetime as dt
import decimal
import json
import uuid

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Json, Jsonb

from record import COLUMNS, Record, arguments, compare

UTC = dt.timezone.utc


def rows_of(conn, table):
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(COLUMNS[table]), sql.Identifier(table))
    return conn.execute(query).fetchall()


def check(conn, record, where):
    """Everything acknowledged so far can be read back, and nothing else."""
    for table in COLUMNS:
        compare(record.table(table), table, rows_of(conn, table), where)


def fails(error, run):
    """`run` must fail with exactly this error class; its diagnostics come back."""
    try:
        run()
    except psycopg.Error as caught:
        assert type(caught) is error, f"expected {error.__name__}, got {type(caught).__name__}: {caught}"
        return caught.diag
    raise AssertionError(f"expected {error.__name__}, but it succeeded")


def autocommit_and_formats(dsn, record):
    """Parameters in text and binary, results in text and binary, client-side binding."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for binary_result in (False, True):
            for mark in ("%s", "%t", "%b"):
                for cursor in (psycopg.Cursor(conn), psycopg.ClientCursor(conn), psycopg.RawCursor(conn)):
                    if isinstance(cursor, psycopg.ClientCursor) and binary_result:
                        continue  # the simple protocol has no binary results
                    name = f"fmt-{mark[1]}-{binary_result}-{type(cursor).__name__}"
                    marks = ("$1", "$2") if isinstance(cursor, psycopg.RawCursor) else (mark, mark)
                    cursor.execute(
                        f"INSERT INTO unit (name, weight) VALUES ({marks[0]}, {marks[1]}) RETURNING id, name, weight, created",
                        (name, 7),
                        binary=binary_result,
                    )
                    assert cursor.statusmessage == "INSERT 0 1", cursor.statusmessage
                    row = cursor.fetchone()
                    assert isinstance(row[0], uuid.UUID) and row[1:3] == (name, 7)
                    record.add("unit", row)
        check(conn, record, "autocommit")


def every_type(dsn, record):
    rows = [
        (
            1, True, -32768, 2147483647, -9223372036854775808, decimal.Decimal("12345678901234.567890"), 1.5, 0.1,
            "naïve “quotes” ' \\ % \t\n", "varchar", "abc   ", uuid.uuid4(), dt.date(2026, 11, 21), dt.time(23, 59, 59, 999999),
            dt.datetime(2026, 11, 21, 22, 20), dt.datetime(2026, 11, 21, 22, 20, 1, 123456, UTC),
            dt.timedelta(days=3, hours=4, microseconds=5), {"a": [1, None]}, {"k": {"ü": 1.25}}, bytes(range(256)),
            [1, None, -3], ["", "a,b", 'q"q', None, "NULL"], [uuid.uuid4(), uuid.uuid4()], "gusty", None,
        ),
        (2, *([None] * 24)),
        (
            3, False, 0, 0, 0, decimal.Decimal("-0.000001"), -0.0, 1e300, "", "", "      ", uuid.UUID(int=0), dt.date(1, 1, 1),
            dt.time(0, 0), dt.datetime(1999, 12, 31), dt.datetime(1970, 1, 1, tzinfo=UTC), dt.timedelta(0), {}, {}, b"",
            [], [], [], "calm", None,
        ),
    ]
    names = COLUMNS["every_type"]
    with psycopg.connect(dsn) as conn:
        for row in rows:
            values = list(row)
            values[17] = Json(row[17]) if row[17] is not None else None
            values[18] = Jsonb(row[18]) if row[18] is not None else None
            marks = ", ".join(["%s"] * len(values))
            got = conn.execute(f"INSERT INTO every_type ({names}) VALUES ({marks}) RETURNING {names}", values).fetchone()
            assert list(got) == list(row), [(g, r) for g, r in zip(got, row) if g != r]
            record.add("every_type", row)
        conn.commit()
        for binary in (False, True):
            cur = conn.cursor(binary=binary)
            for row in rows:
                got = list(cur.execute(f"SELECT {names} FROM every_type WHERE id = %s", (row[0],)).fetchone())
                if isinstance(got[23], bytes):  # psycopg leaves binary values of types unknown to it as they are
                    got[23] = got[23].decode()
                got = tuple(got)
                assert got == row, [(g, r) for g, r in zip(got, row) if g != r]
        # The columns of an answer are described as the table's own.
        described = [(c.name, c.type_code) for c in cur.execute("SELECT * FROM every_type").description]
        assert described[:4] == [("id", 23), ("b", 16), ("i2", 21), ("i4", 23)], described
        # Updates of every type, from values that the server computes.
        conn.execute("UPDATE every_type SET n = n * 2, ia = ia || 9, jb = jb || '{\"z\": 0}', iv = iv * 2, t = upper(t) WHERE id = 1")
        conn.commit()
        got = conn.execute("SELECT n, ia, jb, iv, t FROM every_type WHERE id = 1").fetchone()
        one = rows[0]
        expected = (one[5] * 2, one[20] + [9], {**one[18], "z": 0}, one[16] * 2, one[8].upper())
        assert got == expected, (got, expected)
        record.set("every_type", (1,), n=got[0], ia=got[1], jb=got[2], iv=got[3], t=got[4])
        check(conn, record, "every type")


def many_rows(dsn, record):
    """executemany, with and without RETURNING, and pipeline mode."""
    at = dt.datetime(2026, 2, 1, tzinfo=UTC)
    with psycopg.connect(dsn) as conn:
        batch = [(100, at + dt.timedelta(seconds=i), i / 3) for i in range(50)]
        cur = conn.cursor()
        cur.executemany("INSERT INTO reading (device, at, value) VALUES (%s, %s, %s)", batch)
        assert cur.rowcount == 50, cur.rowcount
        conn.commit()
        record.load("reading", batch)

        cur.executemany(
            "INSERT INTO unit (name, weight) VALUES (%s, %s) RETURNING id, name, weight, created",
            [(f"many-{i}", i + 1) for i in range(10)],
            returning=True,
        )
        while True:
            record.add("unit", cur.fetchone())
            if not cur.nextset():
                break
        conn.commit()

        # The same statement often enough that psycopg prepares it on the server.
        for i in range(12):
            conn.execute("INSERT INTO reading VALUES (%s, %s, %s)", (101, at + dt.timedelta(seconds=i), float(i)))
            record.add("reading", (101, at + dt.timedelta(seconds=i), float(i)))
        conn.commit()
        check(conn, record, "executemany")

        with conn.pipeline():
            cursors = []
            for i in range(20):
                cursors.append(conn.execute("UPDATE reading SET value = value + %s WHERE device = 101 AND at = %s RETURNING value",
                                            (0.5, at + dt.timedelta(seconds=i % 12))))
            totals = conn.execute("SELECT sum(value) FROM reading WHERE device = 101")
        values = [c.fetchone()[0] for c in cursors]
        expected = sum(range(12)) + 20 * 0.5
        assert totals.fetchone()[0] == expected, expected
        conn.commit()
        for i, value in enumerate(values):
            record.set("reading", (101, at + dt.timedelta(seconds=i % 12)), value=value)
        check(conn, record, "pipeline")

        # A failure in a pipeline spoils its transaction only.
        try:
            with conn.pipeline():
                conn.execute("INSERT INTO unit (name, weight) VALUES ('pipe-lost', 1)")
                conn.execute("INSERT INTO unit (name, weight) VALUES ('pipe-bad', -1)")
                conn.execute("INSERT INTO unit (name, weight) VALUES ('pipe-late', 1)")
            raise AssertionError("the pipeline should have failed")
        except errors.CheckViolation:
            conn.rollback()
        check(conn, record, "failed pipeline")


def cursors(dsn, record):
    """Server-side cursors over rows of which some are pending."""
    with psycopg.connect(dsn) as conn:
        expected = [row[0] for row in conn.execute("SELECT value FROM reading ORDER BY device, at").fetchall()]
        for binary in (False, True):
            with conn.cursor("named", binary=binary) as cur:
                cur.itersize = 7
                cur.execute("SELECT value FROM reading ORDER BY device, at")
                assert [row[0] for row in cur] == expected
        with conn.cursor("scrolls", scrollable=True) as cur:
            cur.execute("SELECT value FROM reading WHERE device >= %s ORDER BY device, at", (1,))
            first = cur.fetchmany(5)
            cur.scroll(-5)
            assert cur.fetchmany(5) == first
        # A cursor does not see what its transaction writes after it was opened.
        with conn.cursor("still") as cur:
            cur.execute("SELECT count(*) FROM log_line")
            conn.execute("INSERT INTO log_line (line) VALUES ('after the cursor')")
            assert cur.fetchone()[0] == len(record.rows["log_line"])
        conn.rollback()
        with conn.cursor(row_factory=dict_row) as cur:
            for row in cur.stream("SELECT device, count(*) AS n FROM reading GROUP BY device ORDER BY device"):
                assert row["n"] == sum(1 for r in record.rows["reading"] if r[0] == row["device"]), row
        conn.commit()


def transactions(dsn, record):
    """Blocks, savepoints, rollback, what other sessions see."""
    with psycopg.connect(dsn) as conn, psycopg.connect(dsn, autocommit=True) as other:
        unit = conn.execute("INSERT INTO unit (name, weight) VALUES ('tx', 1) RETURNING id, name, weight, created").fetchone()
        assert other.execute("SELECT count(*) FROM unit WHERE name = 'tx'").fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM unit WHERE name = 'tx'").fetchone() == (1,)
        observation = conn.execute(
            "INSERT INTO observation (unit_id) VALUES (%s) RETURNING id, unit_id, status, started, n", (unit[0],)
        ).fetchone()
        conn.commit()
        record.add("unit", unit)
        record.add("observation", observation)
        assert other.execute("SELECT count(*) FROM unit WHERE name = 'tx'").fetchone() == (1,)

        conn.execute("UPDATE unit SET weight = 99 WHERE name = 'tx'")
        conn.execute("DELETE FROM observation WHERE id = %s", (observation[0],))
        conn.rollback()
        check(conn, record, "rollback")
        conn.commit()

        with conn.transaction():
            conn.execute("UPDATE observation SET n = n + 1 WHERE id = %s", (observation[0],))
            try:
                with conn.transaction():
                    conn.execute("UPDATE observation SET n = n + 10 WHERE id = %s", (observation[0],))
                    conn.execute("INSERT INTO log_line (line) VALUES ('inner, undone')")
                    raise psycopg.Rollback()
            finally:
                pass
            try:
                with conn.transaction("named_point"):
                    conn.execute("INSERT INTO observation (unit_id) VALUES (%s)", (uuid.uuid4(),))
            except errors.ForeignKeyViolation:
                pass
            with conn.transaction():
                conn.execute("UPDATE observation SET n = n + 100, status = 'running' WHERE id = %s", (observation[0],))
                line = conn.execute("INSERT INTO log_line (line) VALUES ('inner, kept') RETURNING at, line").fetchone()
        record.set("observation", (observation[0],), n=101, status="running")
        record.add("log_line", line)
        check(conn, record, "savepoints")
        conn.commit()

        # A block that fails leaves nothing, and the connection is usable.
        try:
            with conn.transaction():
                conn.execute("INSERT INTO log_line (line) VALUES ('never')")
                raise ValueError("the program's own")
        except ValueError:
            pass
        check(conn, record, "failed block")
        conn.commit()

        for level in psycopg.IsolationLevel:
            conn.isolation_level = level
            shown = conn.execute("SHOW transaction_isolation").fetchone()[0]
            # A standby knows no SERIALIZABLE: a site serves it as REPEATABLE READ, and says so. READ UNCOMMITTED is
            # READ COMMITTED in Postgres anyway.
            served = {"serializable": "repeatable read", "read uncommitted": "read committed"}
            name = level.name.lower().replace("_", " ")
            assert shown in (name, served.get(name)), (shown, level)
            conn.rollback()
        conn.isolation_level = None
        conn.read_only = True
        fails(errors.ReadOnlySqlTransaction, lambda: conn.execute("INSERT INTO log_line (line) VALUES ('no')"))
        conn.rollback()
        conn.read_only = None


def error_classes(dsn, record):
    with psycopg.connect(dsn, autocommit=True) as conn:
        run = conn.execute
        known = record.rows["unit"][0]

        diag = fails(errors.UniqueViolation, lambda: run("INSERT INTO unit (name) VALUES ('tx')"))
        assert (diag.sqlstate, diag.constraint_name, diag.table_name, diag.schema_name) == ("23505", "unit_name_key", "unit", "public")
        assert diag.message_detail == "Key (name)=(tx) already exists.", diag.message_detail
        # The first is pending, this one is on the replica: both count.
        fails(errors.UniqueViolation, lambda: run("INSERT INTO unit (name) VALUES ('replicated-1')"))
        fails(errors.UniqueViolation, lambda: run("INSERT INTO unit (id, name) VALUES (%s, 'x')", (known[0],)))
        fails(errors.UniqueViolation, lambda: run("UPDATE unit SET name = 'replicated-2' WHERE name = 'tx'"))

        diag = fails(errors.ForeignKeyViolation, lambda: run("INSERT INTO observation (unit_id) VALUES (%s)", (uuid.UUID(int=1),)))
        assert diag.constraint_name == "observation_unit_id_fkey", diag.constraint_name
        assert "is not present in table \"unit\"" in diag.message_detail, diag.message_detail
        diag = fails(errors.ForeignKeyViolation, lambda: run("DELETE FROM unit WHERE name = 'tx'"))
        assert "is still referenced from table \"observation\"" in diag.message_detail, diag.message_detail

        diag = fails(errors.CheckViolation, lambda: run("INSERT INTO unit (name, weight) VALUES ('w', 0)"))
        assert diag.constraint_name == "unit_weight_check", diag.constraint_name
        diag = fails(errors.NotNullViolation, lambda: run("INSERT INTO unit (name) VALUES (NULL)"))
        assert diag.column_name == "name", diag.column_name
        fails(errors.NotNullViolation, lambda: run("UPDATE unit SET name = NULL WHERE name = 'tx'"))
        fails(errors.StringDataRightTruncation,
              lambda: run("INSERT INTO observation (unit_id, status) VALUES (%s, 'thirteen chars')", (known[0],)))
        fails(errors.InvalidTextRepresentation, lambda: run("INSERT INTO unit (id, name) VALUES ('not a uuid', 'x')"))
        fails(errors.InvalidTextRepresentation, lambda: run("INSERT INTO reading VALUES (%t, now(), 1)", ("x",)))
        fails(errors.NumericValueOutOfRange, lambda: run("INSERT INTO every_type (id, i2) VALUES (99, 32768)"))
        fails(errors.DivisionByZero, lambda: run("UPDATE unit SET weight = weight / 0"))
        fails(errors.UndefinedTable, lambda: run("INSERT INTO no_such_table VALUES (1)"))
        fails(errors.UndefinedColumn, lambda: run("UPDATE unit SET nothing = 1"))
        fails(errors.SyntaxError, lambda: run("INSERT INTO unit VALUES VALUES"))
        fails(errors.DatatypeMismatch, lambda: run("UPDATE unit SET weight = 'a'::text"))
        check(conn, record, "errors")

    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO log_line (line) VALUES ('before the error')")
        fails(errors.UniqueViolation, lambda: conn.execute("INSERT INTO unit (name) VALUES ('tx')"))
        fails(errors.InFailedSqlTransaction, lambda: conn.execute("SELECT 1"))
        conn.rollback()
        check(conn, record, "failed transaction")


def inserts_updates_deletes(dsn, record):
    """INSERT … SELECT, UPDATE and DELETE of pending and replicated rows, with RETURNING."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        cur = conn.execute(
            "INSERT INTO observation (unit_id, status, started) SELECT id, 'batch', %s FROM unit WHERE name LIKE 'many-%%'"
            " RETURNING id, unit_id, status, started, n",
            (dt.datetime(2026, 3, 1, tzinfo=UTC),),
        )
        assert cur.statusmessage == "INSERT 0 10", cur.statusmessage
        new = cur.fetchall()
        record.load("observation", new)
        cur = conn.execute("UPDATE observation SET status = 'done', n = n + 1 WHERE status IN ('batch', 'old') RETURNING id, status, n")
        changed = cur.fetchall()
        assert cur.statusmessage == "UPDATE 13" and len(changed) == 13, cur.statusmessage
        for key, status, n in changed:
            record.set("observation", (key,), status=status, n=n)
        cur = conn.execute("DELETE FROM reading WHERE device BETWEEN 5 AND 10 OR device = 101 RETURNING device, at")
        gone = cur.fetchall()
        assert cur.statusmessage == "DELETE 18" and len(gone) == 18, cur.statusmessage
        for key in gone:
            record.remove("reading", *key)
        check(conn, record, "updates and deletes")
        # A key that was deleted can be used again; a row can change its key.
        at = gone[0][1]
        conn.execute("INSERT INTO reading VALUES (%s, %s, 42)", gone[0])
        record.add("reading", (*gone[0], 42.0))
        conn.execute("UPDATE reading SET device = 500 WHERE device = %s AND at = %s", (gone[0][0], at))
        record.remove("reading", *gone[0])
        record.add("reading", (500, at, 42.0))
        assert conn.execute("UPDATE reading SET value = 0 WHERE device = 987654").statusmessage == "UPDATE 0"
        assert conn.execute("DELETE FROM reading WHERE false").statusmessage == "DELETE 0"
        check(conn, record, "keys used again")


def copies(dsn, record):
    """COPY in text and binary, in and out, row by row and in blocks; what fails leaves the connection usable."""
    at = dt.datetime(2026, 4, 1, tzinfo=UTC)
    with psycopg.connect(dsn) as conn:
        for device, form in ((600, ""), (601, " (FORMAT binary)")):
            batch = [(device, at + dt.timedelta(seconds=i), None if i % 7 == 0 else i / 3) for i in range(1500)]
            with conn.cursor() as cur:
                with cur.copy(f"COPY reading (device, at, value) FROM STDIN{form}") as copy:
                    if form:
                        copy.set_types(["int4", "timestamptz", "float8"])
                    for row in batch:
                        copy.write_row(row)
                assert cur.rowcount == 1500 and cur.statusmessage == "COPY 1500", cur.statusmessage
            record.load("reading", batch)
            with conn.cursor() as cur:
                with cur.copy(f"COPY (SELECT device, at, value FROM reading WHERE device = {device} ORDER BY at) TO STDOUT{form}") as copy:
                    copy.set_types(["int4", "timestamptz", "float8"])
                    assert list(copy.rows()) == batch
        conn.commit()
        # Every type out of one copy and into another, in both formats.
        names = COLUMNS["every_type"]
        for shift, form in ((100, ""), (200, " (FORMAT binary)")):
            shifted = names.replace("id,", f"id + {shift} AS id,", 1)
            with conn.cursor() as cur:
                with cur.copy(f"COPY (SELECT {shifted} FROM every_type WHERE id < 100) TO STDOUT{form}") as copy:
                    data = b"".join(copy)
                with cur.copy(f"COPY every_type ({names}) FROM STDIN{form}") as copy:
                    for start in range(0, len(data), 50):
                        copy.write(data[start : start + 50])
            for row in conn.execute(f"SELECT {names} FROM every_type WHERE id BETWEEN {shift} AND {shift + 99}").fetchall():
                found = record.find("every_type", row[0] - shift)
                assert list(row[1:]) == found[1:], (row, found)
                record.add("every_type", row)
        conn.commit()
        check(conn, record, "copies")

        def broken(text, rows):
            with conn.cursor() as cur, cur.copy(text) as copy:
                for row in rows:
                    copy.write_row(row)

        for error, rows in (
            (errors.UniqueViolation, [(602, at, 1.0), (602, at, 2.0)]),
            (errors.InvalidTextRepresentation, [(602, at, "much")]),
            (errors.NotNullViolation, [(None, at, 1.0)]),
            (errors.BadCopyFileFormat, [(602, at)]),
        ):
            fails(error, lambda: broken("COPY reading FROM STDIN", rows))
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
            conn.rollback()
            assert conn.execute("SELECT count(*) FROM reading WHERE device = 602").fetchone() == (0,)
        with conn.cursor() as cur:
            try:
                with cur.copy("COPY reading FROM STDIN") as copy:
                    copy.write_row((602, at, 1.0))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                conn.rollback()
        with conn.transaction():
            broken("COPY reading FROM STDIN", [(603, at, 1.0)])
            try:
                with conn.transaction():
                    broken("COPY reading FROM STDIN", [(604, at, 1.0)])
                    raise psycopg.Rollback
            except psycopg.Rollback:
                raise AssertionError("swallowed by its transaction")
        record.add("reading", (603, at, 1.0))
        check(conn, record, "copies that fail")


def write(dsn, path):
    record = Record()
    with psycopg.connect(dsn) as conn:
        for table in COLUMNS:
            record.load(table, rows_of(conn, table))
    for part in (autocommit_and_formats, every_type, many_rows, cursors, transactions, error_classes, inserts_updates_deletes, copies):
        part(dsn, record)
        print(f"psycopg3: {part.__name__} ok", flush=True)
    record.save(path)


def verify(dsn, path):
    with open(path, encoding="utf-8") as source:
        expected = json.load(source)
    with psycopg.connect(dsn) as conn:
        for table in COLUMNS:
            compare(expected[table], table, rows_of(conn, table), "after the drain")
    print("psycopg3: verified", sum(len(rows) for rows in expected.values()), "rows")


if __name__ == "__main__":
    args = arguments(__doc__)
    {"write": write, "verify": verify}[args.action](args.dsn, args.record)
