// The JDBC driver as its users use it. Prints what it sees: the same lines from an ordinary Postgres and through pgoutpost.
//
// java -cp postgresql.jar Jdbc.java URL    (the tables: Jdbc.sql)

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.UUID;
import org.postgresql.PGConnection;

class Jdbc {
    static final OffsetDateTime NOON = OffsetDateTime.of(2026, 11, 22, 12, 0, 0, 0, ZoneOffset.UTC);

    static void see(String what, Object... values) {
        System.out.println(what + " " + Arrays.deepToString(values));
    }

    static void rows(String what, ResultSet result) throws SQLException {
        int columns = result.getMetaData().getColumnCount();
        List<String> types = new ArrayList<>();
        for (int i = 1; i <= columns; i++) {
            types.add(result.getMetaData().getColumnLabel(i) + " " + result.getMetaData().getColumnTypeName(i));
        }
        see(what, types);
        while (result.next()) {
            List<String> values = new ArrayList<>();
            for (int i = 1; i <= columns; i++) {
                values.add(result.getString(i));
            }
            see(what, values);
        }
        result.close();
    }

    // Beyond prepareThreshold executions the driver goes over to named statements and binary formats.
    static void prepared(Connection conn) throws SQLException {
        String insert = "INSERT INTO part (name, price, made, serial, tags) VALUES (?, ?, ?, ?, ?)";
        try (PreparedStatement statement = conn.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 0; i < 12; i++) {
                statement.setString(1, "part " + i);
                statement.setBigDecimal(2, new BigDecimal(i + ".25"));
                statement.setObject(3, i % 3 == 0 ? null : LocalDate.of(2026, 1, i + 1));
                statement.setObject(4, new UUID(7, i));
                statement.setArray(5, conn.createArrayOf("text", new String[] {"a", "b" + i}));
                statement.executeUpdate();
                try (ResultSet keys = statement.getGeneratedKeys()) {
                    keys.next();
                    see("key", keys.getInt("id"));
                }
            }
        }
        try (PreparedStatement statement = conn.prepareStatement("SELECT * FROM part WHERE id = ?")) {
            for (int i = 1; i <= 12; i++) {
                statement.setInt(1, i);
                rows("part", statement.executeQuery());
            }
        }
    }

    static void batches(Connection conn) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement("INSERT INTO stock (part, place, n) VALUES (?, ?, ?)")) {
            for (int i = 0; i < 700; i++) {
                statement.setInt(1, i % 12 + 1);
                statement.setInt(2, i);
                statement.setLong(3, i);
                statement.addBatch();
            }
            see("batch", Arrays.stream(statement.executeBatch()).sum());
        }
        try (PreparedStatement statement = conn.prepareStatement("UPDATE stock SET n = n + ? WHERE part = ?")) {
            for (int i = 1; i <= 5; i++) {
                statement.setInt(1, i);
                statement.setInt(2, i);
                statement.addBatch();
            }
            see("batch", statement.executeBatch());
        }
        conn.setAutoCommit(false);
        try (PreparedStatement statement = conn.prepareStatement("INSERT INTO stock VALUES (?, ?, 1)")) {
            for (int place : new int[] {1000, 1001, 0, 1002}) {
                statement.setInt(1, 1);
                statement.setInt(2, place);
                statement.addBatch();
            }
            statement.executeBatch();
            see("not reached");
        } catch (BatchUpdateException error) {
            see("batch failed", error.getSQLState(), error.getUpdateCounts().length);
        }
        conn.rollback();
        conn.setAutoCommit(true);
    }

    static void transactions(Connection conn, Connection other, String kept) throws SQLException {
        conn.setAutoCommit(false);
        try (Statement statement = conn.createStatement()) {
            statement.executeUpdate("INSERT INTO part (name, price) VALUES ('" + kept + "', 1)");
            Savepoint before = conn.setSavepoint("before");
            for (String wrong : new String[] {
                "INSERT INTO part (name, price) VALUES ('" + kept + "', 1)",
                "INSERT INTO part (name, price) VALUES ('x', -1)",
                "INSERT INTO stock VALUES (99, 1, 1)", "DELETE FROM part WHERE id = 1", "SELECT nonsense",
            }) {
                try {
                    statement.execute(wrong);
                    see("not reached", wrong);
                } catch (SQLException error) {
                    see("error", error.getSQLState(), error.getMessage());
                }
                conn.rollback(before);
            }
            conn.releaseSavepoint(before);
            try (Statement beside = other.createStatement()) {
                rows("beside", beside.executeQuery("SELECT count(*) FROM part WHERE name = '" + kept + "'"));
            }
            conn.commit();
            statement.executeUpdate("DELETE FROM stock");
            conn.rollback();
            conn.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
            rows("before", statement.executeQuery("SELECT count(*) FROM stock"));
            try (Statement beside = other.createStatement()) {
                see("beside", beside.executeUpdate("DELETE FROM stock WHERE place > 600"));
            }
            rows("after", statement.executeQuery("SELECT count(*) FROM stock"));
            conn.commit();
            conn.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            conn.setReadOnly(true);
            try {
                statement.executeUpdate("DELETE FROM stock");
            } catch (SQLException error) {
                see("error", error.getSQLState(), error.getMessage());
            }
            conn.rollback();
            conn.setReadOnly(false);
        }
        conn.setAutoCommit(true);
    }

    // A portal that is fetched from in pieces, a result set that writes, COPY, several statements in one string.
    static void cursors(Connection conn) throws Exception {
        conn.setAutoCommit(false);
        try (Statement statement = conn.createStatement()) {
            statement.setFetchSize(50);
            long sum = 0;
            int count = 0;
            try (ResultSet result = statement.executeQuery("SELECT n FROM stock ORDER BY place")) {
                while (result.next()) {
                    sum += result.getLong(1);
                    count++;
                }
            }
            see("fetched", count, sum);
        }
        conn.commit();
        try (Statement statement = conn.createStatement(ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE);
                ResultSet result = statement.executeQuery("SELECT id, name, price FROM part WHERE id < 4 ORDER BY id")) {
            result.absolute(2);
            result.updateString("name", "by the result set");
            result.updateRow();
            result.last();
            result.moveToInsertRow();
            result.updateInt("id", 500);
            result.updateString("name", "inserted by it");
            result.updateBigDecimal("price", BigDecimal.TEN);
            result.insertRow();
        }
        conn.commit();
        conn.setAutoCommit(true);
        var copy = conn.unwrap(PGConnection.class).getCopyAPI();
        see("copied", copy.copyIn("COPY stock FROM STDIN (FORMAT csv)", new StringReader("2,2000,5\n3,2001,\n")));
        var out = new StringWriter();
        see("copied", copy.copyOut("COPY (SELECT * FROM stock WHERE place > 590 ORDER BY place) TO STDOUT", out), out);
        try (Statement statement = conn.createStatement()) {
            boolean isRows = statement.execute(
                "INSERT INTO part (name, price) VALUES ('several', 3); SELECT max(price) FROM part; UPDATE part SET price = 4 WHERE name = 'several'");
            see("several", isRows, statement.getUpdateCount());
            see("several", statement.getMoreResults());
            rows("several", statement.getResultSet());
            see("several", statement.getMoreResults(), statement.getUpdateCount());
        }
        try (PreparedStatement statement = conn.prepareStatement(
                "INSERT INTO stock VALUES (1, 0, 7) ON CONFLICT (part, place) DO UPDATE SET n = stock.n + excluded.n RETURNING *")) {
            statement.execute();
            rows("upsert", statement.getResultSet());
        }
        try (PreparedStatement statement = conn.prepareStatement("UPDATE part SET made = ?, price = ? WHERE id = ?")) {
            statement.setNull(1, Types.DATE);
            statement.setObject(2, 12.5);
            statement.setInt(3, 4);
            see("typed", statement.executeUpdate());
            ParameterMetaData parameters = statement.getParameterMetaData();
            see("parameters", parameters.getParameterTypeName(1), parameters.getParameterTypeName(2), parameters.getParameterTypeName(3));
        }
    }

    static void about(Connection conn) throws SQLException {
        DatabaseMetaData about = conn.getMetaData();
        try (ResultSet result = about.getColumns(null, "public", "part", null)) {
            while (result.next()) {
                see("column", result.getString("COLUMN_NAME"), result.getString("TYPE_NAME"), result.getString("IS_AUTOINCREMENT"));
            }
        }
        try (ResultSet result = about.getImportedKeys(null, "public", "stock")) {
            while (result.next()) {
                see("imported", result.getString("PKTABLE_NAME"), result.getString("FKCOLUMN_NAME"));
            }
        }
        see("valid", conn.isValid(5));
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection conn = DriverManager.getConnection(arguments[0]);
                Connection other = DriverManager.getConnection(arguments[0] + "&preferQueryMode=simple")) {
            prepared(conn);
            batches(conn);
            transactions(conn, other, "one");
            transactions(other, conn, "two");
            cursors(conn);
            about(conn);
            try (Statement statement = conn.createStatement()) {
                rows("part", statement.executeQuery("SELECT * FROM part ORDER BY id"));
                rows("stock", statement.executeQuery("SELECT * FROM stock ORDER BY part, place"));
            }
        }
    }
}
