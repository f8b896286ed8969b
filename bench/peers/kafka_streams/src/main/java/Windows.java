import com.sun.management.OperatingSystemMXBean;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.DoubleAdder;
import org.apache.avro.Schema;
import org.apache.avro.SchemaBuilder;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Window features on Kafka Streams: of the last 5 minutes and the last hour of a car count, sum, avg, min, max and
 * stddev_samp of its current.
 *
 * <p>SERVERS TOPIC RECORDS SCHEMA HOW APPLICATION STATE_FOLDER OUTPUT. HOW is "sliding" (SlidingWindows of the DSL, grace 10 minutes,
 * an aggregation a window), "rocksdb" or "memory" (a processor that keeps the rows of a car as one value of a
 * key-value store). OUTPUT is a file that takes a line a result, or "-": they are dropped.
 */
public final class Windows {
  private static final long[] LENGTHS = {300_000, 3_600_000};
  private static final Duration GRACE = Duration.ofMinutes(10);
  private static final AtomicLong read = new AtomicLong();
  private static final AtomicLong made = new AtomicLong();
  private static final DoubleAdder sum = new DoubleAdder();
  private static final AtomicLong first = new AtomicLong();
  private static final AtomicLong firstCpu = new AtomicLong();
  private static final CountDownLatch done = new CountDownLatch(1);
  private static long records;
  private static PrintStream output;

  public static void main(String[] args) throws Exception {
    records = Long.parseLong(args[2]);
    Schema written = new Schema.Parser().parse(Path.of(args[3]).toFile());
    output = args[7].equals("-") ? null : new PrintStream(args[7]);
    StreamsBuilder builder = new StreamsBuilder();
    TimestampExtractor eventTime = (ConsumerRecord<Object, Object> r, long before) -> ((Reading) r.value()).time();
    Serde<Reading> readings =
        Serdes.serdeFrom((name, r) -> { throw new UnsupportedOperationException(); }, new Readings(written));
    KStream<String, Reading> events =
        builder.stream(args[1], Consumed.with(Serdes.String(), readings).withTimestampExtractor(eventTime));
    if (args[4].equals("sliding")) {
      for (long length : LENGTHS) sliding(events.peek((car, r) -> { if (length == LENGTHS[0]) count(); }), readings, length);
    } else {
      KeyValueBytesStoreSupplier store =
          args[4].equals("rocksdb") ? Stores.persistentKeyValueStore("rows") : Stores.inMemoryKeyValueStore("rows");
      builder.addStateStore(
          Stores.keyValueStoreBuilder(store, Serdes.String(), Serdes.ByteArray()).withCachingEnabled());
      events.process(Kept::new, "rows");
    }
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, args[5]);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, args[6]);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64 << 20);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
    KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    streams.setUncaughtExceptionHandler(error -> {
      error.printStackTrace();
      System.exit(1);
      return null;
    });
    long start = System.nanoTime();
    streams.start();
    long before = -1; // after a restart nobody knows how many are left: until none has come for a while
    while (!done.await(15, TimeUnit.SECONDS) && (read.get() == 0 || read.get() != before)) before = read.get();
    streams.close(); // flushes the stores and commits
    long end = System.nanoTime();
    if (output != null) output.close();
    System.out.printf(
        "{\"records\": %d, \"results\": %d, \"first\": %.3f, \"start\": %.3f, \"cpu\": %.3f}%n",
        read.get(), made.get(), (end - first.get()) / 1e9, (end - start) / 1e9, (cpu() - firstCpu.get()) / 1e9);
    System.exit(0);
  }

  private static long cpu() {
    return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
  }

  private static void count() {
    if (first.get() == 0 && first.compareAndSet(0, System.nanoTime())) firstCpu.set(cpu());
    if (read.incrementAndGet() == records) done.countDown();
  }

  /** A result: of the row of a car at a time, the features of a window. */
  private static void result(String car, long time, long length, Features f) {
    made.incrementAndGet();
    sum.add(f.count + f.sum + f.min + f.max + f.stddev()); // nothing may be left out as unused
    if (output == null) return;
    synchronized (output) {
      output.printf("%s,%d,%d,%d,%s,%s,%s,%s,%s%n", car, time, length, f.count, f.sum, f.sum / f.count, f.min, f.max, f.stddev());
    }
  }

  private static void sliding(KStream<String, Reading> events, Serde<Reading> readings, long length) {
    events
        .groupByKey(Grouped.with(Serdes.String(), readings))
        .windowedBy(SlidingWindows.ofTimeDifferenceAndGrace(Duration.ofMillis(length), GRACE))
        .aggregate(
            Features::new,
            (car, reading, features) -> features.with(reading.value()),
            Materialized.with(Serdes.String(), Serdes.serdeFrom(new FeaturesSerializer(), new FeaturesDeserializer())))
        .toStream()
        // The window that ends with a row has its features; the others are of times between rows.
        .process(() -> new ContextualProcessor<Windowed<String>, Features, Void, Void>() {
          @Override
          public void process(Record<Windowed<String>, Features> r) {
            if (r.key().window().end() == r.timestamp()) result(r.key().key(), r.timestamp(), length, r.value());
          }
        });
  }

  private record Reading(long time, double value) {}

  /** The two fields that matter, as Avro's reader resolves them. A thread each has its own. */
  private static final class Readings implements Deserializer<Reading> {
    private final ThreadLocal<GenericDatumReader<GenericRecord>> reader;
    private final ThreadLocal<BinaryDecoder> decoder = new ThreadLocal<>();
    private final ThreadLocal<GenericRecord> row = new ThreadLocal<>();

    Readings(Schema written) {
      Schema wanted = SchemaBuilder.record(written.getName()).namespace(written.getNamespace()).fields()
          .name("event_time").type(Schema.create(Schema.Type.LONG)).noDefault()
          .name("current_draw").type(Schema.create(Schema.Type.DOUBLE)).noDefault().endRecord();
      reader = ThreadLocal.withInitial(() -> new GenericDatumReader<>(written, wanted));
    }

    @Override
    public Reading deserialize(String topic, byte[] bytes) {
      try {
        decoder.set(DecoderFactory.get().binaryDecoder(bytes, 5, bytes.length - 5, decoder.get()));
        row.set(reader.get().read(row.get(), decoder.get()));
        return new Reading((Long) row.get().get(0), (Double) row.get().get(1));
      } catch (java.io.IOException error) {
        throw new java.io.UncheckedIOException(error);
      }
    }
  }

  /** What a window holds; the deviation as Welford has it. */
  private static final class Features {
    long count;
    double sum;
    double min = Double.POSITIVE_INFINITY;
    double max = Double.NEGATIVE_INFINITY;
    double mean;
    double squares;

    Features with(double value) {
      count++;
      sum += value;
      min = Math.min(min, value);
      max = Math.max(max, value);
      double before = value - mean;
      mean += before / count;
      squares += before * (value - mean);
      return this;
    }

    double stddev() {
      return Math.sqrt(squares / (count - 1)); // of one value NaN
    }
  }

  private static final class FeaturesSerializer implements Serializer<Features> {
    @Override
    public byte[] serialize(String topic, Features f) {
      return f == null ? null : ByteBuffer.allocate(48).putLong(f.count).putDouble(f.sum).putDouble(f.min).putDouble(f.max)
          .putDouble(f.mean).putDouble(f.squares).array();
    }
  }

  private static final class FeaturesDeserializer implements Deserializer<Features> {
    @Override
    public Features deserialize(String topic, byte[] bytes) {
      if (bytes == null) return null;
      ByteBuffer b = ByteBuffer.wrap(bytes);
      Features f = new Features();
      f.count = b.getLong();
      f.sum = b.getDouble();
      f.min = b.getDouble();
      f.max = b.getDouble();
      f.mean = b.getDouble();
      f.squares = b.getDouble();
      return f;
    }
  }

  /** Rows of a car as (time, value) in the order of time, in one value of the store: a get and a put a record. */
  private static final class Kept extends ContextualProcessor<String, Reading, Void, Void> {
    private KeyValueStore<String, byte[]> store;

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      super.init(context);
      store = context.getStateStore("rows");
    }

    @Override
    public void process(Record<String, Reading> record) {
      long time = record.value().time();
      double value = record.value().value();
      byte[] known = store.get(record.key());
      ByteBuffer before = ByteBuffer.wrap(known == null ? new byte[0] : known);
      int rows = before.capacity() / 16;
      long newest = rows == 0 ? time : Math.max(time, before.getLong((rows - 1) * 16));
      long oldest = newest - LENGTHS[1] - GRACE.toMillis();
      int from = 0;
      while (from < rows && before.getLong(from * 16) < oldest) from++;
      int at = rows;
      while (at > from && before.getLong((at - 1) * 16) > time) at--;
      ByteBuffer after = ByteBuffer.allocate((rows - from + 1) * 16);
      after.put(before.array(), from * 16, (at - from) * 16).putLong(time).putDouble(value);
      after.put(before.array(), at * 16, (rows - at) * 16);
      store.put(record.key(), after.array());
      for (long length : LENGTHS) {
        Features features = new Features().with(value);
        for (int i = at - 1; i >= from && before.getLong(i * 16) >= time - length; i--) {
          features.with(before.getDouble(i * 16 + 8));
        }
        result(record.key(), time, length, features);
      }
      count();
    }
  }
}
