/* The least that can answer Envoy's external processing filter: it shows what Envoy itself takes for asking.
 *
 *   ext_proc_answers SOCKET REQUEST RESPONSE
 *
 * The answers to the two questions of each request are known beforehand: messages with gRPC's five bytes, as
 * hexadecimal digits. HTTP/2 is read frame by frame, and no header at all. One connection at a time.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { DATA, HEADERS, SETTINGS = 4, PING = 6, WINDOW_UPDATE = 8 };
enum { ACK = 1, END_STREAM = 1, END_HEADERS = 4 };
enum { ASKS_REQUEST = 0x12, ASKS_RESPONSE = 0x1a };
enum { PREFACE = 24, MOST = 1 << 17, GIVE_BACK = 1 << 18 }; /* bytes */

typedef struct {
  char bytes[512];
  size_t size;
} Answer;

/* ":status: 200" and "content-type: application/grpc"; "grpc-status: 0" */
static const char begin[] = "\x88\x0f\x10\x10"
                            "application/grpc";
static const char end[] = "\x00\x0bgrpc-status\x01"
                          "0";
static Answer request, response;
static unsigned char in[2 * MOST];
static char out[16 * MOST];
static size_t written;

static uint32_t number(const unsigned char* at, int bytes) {
  uint32_t value = 0;
  while (bytes--) value = value << 8 | *at++;
  return value;
}

static void put(int kind, int flags, uint32_t stream, const void* payload, size_t size) {
  const uint32_t parts[] = {(uint32_t)size >> 16, (uint32_t)size >> 8, (uint32_t)size, (uint32_t)kind, (uint32_t)flags,
                            stream >> 24,         stream >> 16,        stream >> 8,    stream};
  for (int i = 0; i < 9; i++) out[written++] = (char)parts[i];
  memcpy(out + written, payload, size);
  written += size;
}

static void answer(uint32_t stream, unsigned char asked) {
  if (asked == ASKS_REQUEST) {
    put(HEADERS, END_HEADERS, stream, begin, sizeof begin - 1);
    put(DATA, 0, stream, request.bytes, request.size);
  } else if (asked == ASKS_RESPONSE) {
    put(DATA, 0, stream, response.bytes, response.size);
    put(HEADERS, END_HEADERS | END_STREAM, stream, end, sizeof end - 1);
  }
}

/* Answer the frames that have come whole. Returns how many bytes they were. */
static size_t frames(size_t had, uint32_t* received) {
  size_t at = 0;
  while (had - at >= 9 && had - at - 9 >= number(in + at, 3)) {
    const unsigned char *head = in + at, *payload = head + 9;
    uint32_t size = number(head, 3);
    at += 9 + size;
    if (head[3] == SETTINGS && !(head[4] & ACK)) put(SETTINGS, ACK, 0, "", 0);
    if (head[3] == PING && !(head[4] & ACK)) put(PING, ACK, 0, payload, size);
    if (head[3] != DATA) continue;
    *received += size;
    if (size > 5) answer(number(head + 5, 4), payload[5]);
    if (*received < GIVE_BACK) continue;
    const unsigned char more[] = {(unsigned char)(*received >> 24), (unsigned char)(*received >> 16),
                                  (unsigned char)(*received >> 8), (unsigned char)*received};
    put(WINDOW_UPDATE, 0, 0, more, sizeof more);
    *received = 0;
  }
  return at;
}

static void serve(int peer) {
  size_t had = 0, skip = PREFACE, used;
  uint32_t received = 0;
  ssize_t got;
  written = 0;
  put(SETTINGS, 0, 0, "\0\x03\0\0\x07\xd0\0\x04\0\x10\0\0", 12); /* 2,000 streams, 1 MiB for each */
  put(WINDOW_UPDATE, 0, 0, "\0\xff\0\0", 4);                     /* 16 MiB more for all */
  for (;;) {
    for (size_t at = 0; at < written; at += (size_t)got)
      if ((got = write(peer, out + at, written - at)) <= 0) return;
    written = 0;
    if ((got = read(peer, in + had, MOST)) <= 0) return;
    had += (size_t)got;
    used = had < skip ? had : skip;
    skip -= used;
    memmove(in, in + used, had -= used);
    used = frames(had, &received);
    memmove(in, in + used, had -= used);
  }
}

static int known(Answer* answer, const char* digits) {
  for (unsigned byte; answer->size < sizeof answer->bytes && sscanf(digits, "%2x", &byte) == 1; digits += 2)
    answer->bytes[answer->size++] = (char)byte;
  return *digits == 0;
}

int main(int count, char** given) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (count != 4 || strlen(given[1]) >= sizeof address.sun_path || !known(&request, given[2]) ||
      !known(&response, given[3]))
    return 2;
  strcpy(address.sun_path, given[1]);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) < 0 || listen(listener, 16) < 0) {
    perror(given[1]);
    return 1;
  }
  puts("listening");
  fflush(stdout);
  for (int peer; (peer = accept(listener, NULL, NULL)) >= 0; close(peer)) serve(peer);
  return 1;
}
