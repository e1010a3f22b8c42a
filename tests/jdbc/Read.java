import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.Statement;

/** Prints what a BI tool reads: tables with their comments, then each query's rows. Arguments: a URL, a database, queries. */
public class Read {
    public static void main(String[] arguments) throws Exception {
        try (Connection connection = DriverManager.getConnection(arguments[0])) {
            DatabaseMetaData meta = connection.getMetaData();
            try (ResultSet tables = meta.getTables(null, arguments[1], "%", null)) {
                while (tables.next()) {
                    System.out.println("table\t" + tables.getString("TABLE_NAME") + "\t" + tables.getString("REMARKS"));
                }
            }
            for (int i = 2; i < arguments.length; i++) {
                try (Statement statement = connection.createStatement();
                        ResultSet rows = statement.executeQuery(arguments[i])) {
                    int columns = rows.getMetaData().getColumnCount();
                    while (rows.next()) {
                        StringBuilder line = new StringBuilder("row");
                        for (int column = 1; column <= columns; column++) {
                            line.append('\t').append(rows.getObject(column));
                        }
                        System.out.println(line);
                    }
                }
            }
        }
    }
}
