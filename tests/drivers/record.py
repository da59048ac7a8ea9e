"""What a driver was told was committed, kept beside it, and compared with a database afterwards.

A record is {table: {key: row}}. Rows are the driver's own Python values, written to a file as their normalised repr,
so that the comparison afterwards is value by value, not by count.
"""

import argparse
import datetime
import decimal
import json
import os
import sys

COLUMNS = {
    "unit": "id, name, weight, created",
    "observation": "id, unit_id, status, started, n",
    "every_type": "id, b, i2, i4, i8, n, f4, f8, t, vc, c, u, d, tm, ts, tz, iv, j, jb, ba, ia, ta, ua, m, ip",
    "reading": "device, at, value",
    "log_line": "at, line",
}


def normal(value):
    """One spelling for a value, whichever driver it came from."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.timezone.utc)
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, (memoryview, bytearray)):
        value = bytes(value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(normal(v) for v in value) + "]"
    return repr(value) if not hasattr(value, "hex") or isinstance(value, (bytes, float)) else str(value)


class Record:
    """Rows that must be there, by table."""

    def __init__(self):
        self.rows = {table: [] for table in COLUMNS}

    def add(self, table, row):
        assert len(row) == len(COLUMNS[table].split(",")), (table, row)
        self.rows[table].append(list(row))

    def load(self, table, rows):
        """The rows that were there before we began."""
        for row in rows:
            self.add(table, row)

    def find(self, table, *key):
        found = [row for row in self.rows[table] if row[: len(key)] == list(key)]
        assert len(found) == 1, (table, key, found)
        return found[0]

    def set(self, table, key, **values):
        row = self.find(table, *key)
        names = [name.strip() for name in COLUMNS[table].split(",")]
        for name, value in values.items():
            row[names.index(name)] = value

    def remove(self, table, *key):
        self.rows[table].remove(self.find(table, *key))

    def table(self, table):
        return sorted([normal(v) for v in row] for row in self.rows[table])

    def save(self, path):
        with open(path, "w", encoding="utf-8") as out:
            json.dump({table: self.table(table) for table in COLUMNS}, out, indent=1)


def compare(expected, table, rows, where):
    """Exits with the differences when `rows` are not exactly the expected ones."""
    got = sorted([normal(v) for v in row] for row in rows)
    if got == expected:
        return
    missing = [row for row in expected if row not in got]
    extra = [row for row in got if row not in expected]
    sys.exit(
        f"{where}: table {table}: {len(got)} rows, expected {len(expected)}\n"
        + "".join(f"  missing {row}\n" for row in missing[:5])
        + "".join(f"  unexpected {row}\n" for row in extra[:5])
        + ("" if missing or extra else "  the same rows, but some of them more than once\n")
    )


def arguments(description):
    """`write` runs the script and saves the record; `verify` compares a database with a saved record."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("action", choices=["write", "verify"])
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--record", required=True)
    args = parser.parse_args()
    if args.action == "verify":
        assert os.path.exists(args.record), f"no record at {args.record}"
    return args
