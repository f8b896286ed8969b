import java.io.ByteArrayOutputStream;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.processor.api.RecordMetadata;

/**
 * The scoring job on Kafka Streams.
 *
 * <p>SERVERS TOPIC ALERTS_TOPIC WEIGHTS RECORDS SCHEMAS_FOLDER THREADS WARM. With WARM true the topology first runs over
 * the topic once in this JVM, its alerts to ALERTS_TOPIC-warm, so that the measured run meets compiled code.
 */
public final class Score {
  private static String topic;
  private static String weights;
  private static Schema event;
  private static Schema alert;
  private static final AtomicLong read = new AtomicLong();
  private static final AtomicLong alerts = new AtomicLong();
  private static final AtomicLong first = new AtomicLong();

  public static void main(String[] args) throws Exception {
    topic = args[1];
    weights = args[3];
    event = new Schema.Parser().parse(new File(args[5], "car_sensor.avsc"));
    alert = new Schema.Parser().parse(new File(args[5], "alert.avsc"));
    long records = Long.parseLong(args[4]);
    int threads = Integer.parseInt(args[6]);
    if (Boolean.parseBoolean(args[7])) {
      String warm = args[2] + "-warm";
      try (Admin admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]))) {
        admin.createTopics(List.of(new NewTopic(warm, 1, (short) 1))).all().get();
      }
      run(args[0], warm, records, threads);
    }
    long start = System.nanoTime();
    run(args[0], args[2], records, threads);
    long end = System.nanoTime();
    System.out.printf(
        "{\"records\": %d, \"alerts\": %d, \"first\": %.6f, \"start\": %.6f}%n",
        read.get(), alerts.get(), (end - first.get()) / 1e9, (end - start) / 1e9);
    System.exit(0);
  }

  private static void run(String servers, String output, long records, int threads) throws Exception {
    read.set(0);
    alerts.set(0);
    first.set(0);
    CountDownLatch done = new CountDownLatch(1);
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .processValues(() -> new Scorer(records, done))
        .to(output, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    Properties settings = new Properties();
    Path state = Files.createTempDirectory("kafka-streams-peer");
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "streams-" + System.nanoTime());
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, threads);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
    KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    streams.start();
    done.await();
    streams.close(); // flushes the producer and commits
    Files.deleteIfExists(state);
  }

  private static final class Scorer implements FixedKeyProcessor<byte[], byte[], byte[]> {
    private final long records;
    private final CountDownLatch done;
    private final GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(event);
    private final GenericDatumWriter<GenericRecord> writer = new GenericDatumWriter<>(alert);
    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    private Net net;
    private int[] fields;
    private int vibration;
    private int speed;
    private float[] x;
    private BinaryDecoder decoder;
    private BinaryEncoder encoder;
    private GenericRecord row;
    private FixedKeyProcessorContext<byte[], byte[]> context;

    Scorer(long records, CountDownLatch done) {
      this.records = records;
      this.done = done;
    }

    @Override
    public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
      this.context = context;
      try {
        net = new Net(weights);
      } catch (java.io.IOException error) {
        throw new java.io.UncheckedIOException(error);
      }
      x = new float[net.features.length];
      fields = new int[x.length];
      for (int i = 0; i < x.length; i++) {
        Schema.Field field = event.getField(net.features[i]);
        fields[i] = field == null ? -1 : field.pos(); // vibration_per_speed
      }
      vibration = event.getField("engine_vibration_amplitude").pos();
      speed = event.getField("speed").pos();
    }

    @Override
    public void process(FixedKeyRecord<byte[], byte[]> record) {
      if (first.get() == 0) first.compareAndSet(0, System.nanoTime());
      try {
        byte[] value = record.value();
        decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, decoder);
        row = reader.read(row, decoder);
        for (int i = 0; i < x.length; i++) {
          x[i] = fields[i] < 0
              ? (float) ((Double) row.get(vibration) / ((Double) row.get(speed) + 1))
              : ((Number) row.get(fields[i])).floatValue();
        }
        float score = net.score(x);
        if (score > net.threshold) {
          alerts.incrementAndGet();
          context.forward(record.withValue(alert(score)));
        }
      } catch (java.io.IOException error) {
        throw new java.io.UncheckedIOException(error);
      }
      if (read.incrementAndGet() == records) done.countDown();
    }

    private byte[] alert(float score) throws java.io.IOException {
      RecordMetadata at = context.recordMetadata().orElseThrow();
      GenericRecord made =
          new GenericRecordBuilder(alert)
              .set("id", at.topic() + "-" + at.partition() + "-" + at.offset())
              .set("key", row.get("car_id"))
              .set("event_time", row.get("event_time"))
              .set("score", score)
              .set("threshold", net.threshold)
              .set("percentile", 0.0)
              .set("model", net.model)
              .set("version", net.version)
              .set("source_topic", at.topic())
              .set("source_partition", at.partition())
              .set("source_offset", at.offset())
              .set("features", List.of())
              .build();
      bytes.reset();
      bytes.writeBytes(new byte[] {0, 0, 0, 0, 1});
      encoder = EncoderFactory.get().binaryEncoder(bytes, encoder);
      writer.write(made, encoder);
      encoder.flush();
      return bytes.toByteArray();
    }
  }
}
