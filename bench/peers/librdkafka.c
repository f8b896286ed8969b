// The floor under any librdkafka client: its batch call and nothing else. No decoding, no copy, no object a record.
// SERVERS TOPIC RECORDS [PROPERTY=VALUE ...]; built by librdkafka_peer.py against the library inside confluent-kafka.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The part of rdkafka.h that is used; the wheel brings no header.
typedef struct { int err; void *rkt; int32_t partition; void *payload; size_t len; } message;
extern void *rd_kafka_conf_new(void);
extern int rd_kafka_conf_set(void *, const char *, const char *, char *, size_t);
extern void *rd_kafka_new(int, void *, char *, size_t);
extern int rd_kafka_poll_set_consumer(void *);
extern void *rd_kafka_queue_get_consumer(void *);
extern void *rd_kafka_topic_partition_list_new(int);
extern void *rd_kafka_topic_partition_list_add(void *, const char *, int32_t);
extern int rd_kafka_topic_partition_list_set_offset(void *, const char *, int32_t, int64_t);
extern int rd_kafka_assign(void *, const void *);
extern long rd_kafka_consume_batch_queue(void *, int, message **, size_t);
extern void rd_kafka_message_destroy(message *);

enum { CONSUMER = 1, PARTITIONS = 4, BATCH = 10000 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  static message *batch[BATCH];
  char text[512];
  double start = now(), first = 0;
  long wanted = atol(argv[3]), read = 0;
  void *conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", argv[1], text, sizeof text);
  for (int i = 4; i < argc; i++) {
    char *value = strchr(argv[i], '=');
    *value++ = 0;
    if (rd_kafka_conf_set(conf, argv[i], value, text, sizeof text)) return fprintf(stderr, "%s\n", text), 2;
  }
  void *client = rd_kafka_new(CONSUMER, conf, text, sizeof text);
  if (!client) return fprintf(stderr, "%s\n", text), 2;
  rd_kafka_poll_set_consumer(client);
  void *queue = rd_kafka_queue_get_consumer(client), *parts = rd_kafka_topic_partition_list_new(PARTITIONS);
  for (int p = 0; p < PARTITIONS; p++) {
    rd_kafka_topic_partition_list_add(parts, argv[2], p);
    rd_kafka_topic_partition_list_set_offset(parts, argv[2], p, 0);
  }
  rd_kafka_assign(client, parts);
  while (read < wanted) {
    long taken = rd_kafka_consume_batch_queue(queue, 100, batch, BATCH);
    if (taken > 0 && !first) first = now();
    for (long i = 0; i < taken; i++) {
      read += batch[i]->err == 0;
      rd_kafka_message_destroy(batch[i]);
    }
  }
  double end = now();
  printf("{\"records\": %ld, \"first\": %.6f, \"start\": %.6f}\n", read, end - first, end - start);
  exit(0);
}
