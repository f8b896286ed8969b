import com.sun.management.OperatingSystemMXBean;
import com.sun.net.httpserver.HttpServer;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.concurrent.Executors;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Window features by Flink SQL's OVER: of the last 5 minutes and the last hour of a car count, sum, avg, min, max and
 * stddev_samp of its current.
 *
 * <p>SERVERS TOPIC RECORDS SCHEMA BACKEND CHECKPOINTS OUTPUT. BACKEND is "rocksdb" or "hashmap". A query may have one
 * OVER window, so the second stands around the first. OUTPUT is a file that takes a line a row, or "-": a blackhole.
 */
public final class Over {
  private static final String FUNCTIONS =
      "count(current_draw) OVER w AS count_%1$s, sum(current_draw) OVER w AS sum_%1$s, avg(current_draw) OVER w AS avg_%1$s, "
          + "min(current_draw) OVER w AS min_%1$s, max(current_draw) OVER w AS max_%1$s, "
          + "stddev_samp(current_draw) OVER w AS stddev_samp_%1$s";
  private static final String WINDOW =
      " WINDOW w AS (PARTITION BY car_id ORDER BY event_time RANGE BETWEEN INTERVAL '%d' MINUTE PRECEDING AND CURRENT ROW)";

  public static void main(String[] args) {
    try {
      run(args);
      System.exit(0);
    } catch (Exception error) {
      error.printStackTrace();
      System.exit(1); // threads of the cluster would go on
    }
  }

  private static void run(String[] args) throws Exception {
    String schema = Files.readString(Path.of(args[3]));
    HttpServer registry = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    byte[] answer = ("{\"schema\": \"" + schema.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"}")
        .getBytes(StandardCharsets.UTF_8);
    registry.createContext("/schemas/ids/1", exchange -> {
      exchange.getResponseHeaders().add("Content-Type", "application/vnd.schemaregistry.v1+json");
      exchange.sendResponseHeaders(200, answer.length);
      exchange.getResponseBody().write(answer);
      exchange.close();
    });
    registry.setExecutor(Executors.newSingleThreadExecutor(work -> {
      Thread thread = new Thread(work);
      thread.setDaemon(true);
      return thread;
    }));
    registry.start();
    TableEnvironment table = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
    String[][] settings = {
      {"parallelism.default", "2"},
      {"pipeline.object-reuse", "true"},
      {"state.backend.type", args[4]},
      {"execution.checkpointing.interval", "30 s"},
      {"execution.checkpointing.dir", Path.of(args[5]).toUri().toString()},
      {"table.local-time-zone", "UTC"},
    };
    for (String[] setting : settings) table.getConfig().set(setting[0], setting[1]);
    table.executeSql(
        "CREATE TABLE events (car_id STRING NOT NULL, event_time TIMESTAMP(3) NOT NULL, current_draw DOUBLE NOT NULL, "
            + "WATERMARK FOR event_time AS event_time - INTERVAL '10' MINUTE) WITH ('connector' = 'kafka', "
            + "'properties.bootstrap.servers' = '" + args[0] + "', 'topic' = '" + args[1] + "', "
            + "'properties.group.id' = 'flink', 'scan.startup.mode' = 'earliest-offset', "
            + "'scan.bounded.mode' = 'latest-offset', 'value.format' = 'avro-confluent', "
            + "'value.avro-confluent.url' = 'http://127.0.0.1:" + registry.getAddress().getPort() + "')");
    String inner = "SELECT car_id, event_time, current_draw, " + FUNCTIONS.formatted("short") + " FROM events" + WINDOW.formatted(5);
    String query = "SELECT car_id, event_time, count_short, sum_short, avg_short, min_short, max_short, stddev_samp_short, "
            + FUNCTIONS.formatted("long") + " FROM (" + inner + ")" + WINDOW.formatted(60);
    long start = System.nanoTime();
    long cpu = cpu();
    if (args[6].equals("-")) {
      table.executeSql(
          "CREATE TABLE dropped (car_id STRING, event_time TIMESTAMP(3), c1 BIGINT, s1 DOUBLE, a1 DOUBLE, l1 DOUBLE, h1 DOUBLE, "
              + "d1 DOUBLE, c2 BIGINT, s2 DOUBLE, a2 DOUBLE, l2 DOUBLE, h2 DOUBLE, d2 DOUBLE) WITH ('connector' = 'blackhole')");
      TableResult job = table.executeSql("INSERT INTO dropped " + query);
      start = System.nanoTime();
      cpu = cpu();
      job.await();
    } else {
      try (PrintStream output = new PrintStream(args[6]); CloseableIterator<Row> rows = table.executeSql(query).collect()) {
        while (rows.hasNext()) {
          Row row = rows.next();
          StringBuilder line = new StringBuilder();
          line.append(row.getField(0)).append(',').append(((LocalDateTime) row.getField(1)).toInstant(ZoneOffset.UTC).toEpochMilli());
          for (int i = 2; i < row.getArity(); i++) line.append(',').append(row.getField(i));
          output.println(line);
        }
      }
    }
    double seconds = (System.nanoTime() - start) / 1e9;
    System.out.printf(
        "{\"records\": %s, \"first\": %.3f, \"start\": %.3f, \"cpu\": %.3f}%n", args[2], seconds, seconds, (cpu() - cpu) / 1e9);
  }

  private static long cpu() {
    return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
  }
}
