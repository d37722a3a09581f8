/* HTTP/1.1 load in short turns over ports of this machine, for comparisons in which one way's turn follows another's.
 *
 *   turns SIZE   requests with a body of SIZE bytes; GET when it is 0
 *   stdin        PORT CONNECTIONS MILLISECONDS
 *   stdout       requests and seconds of the turn, requests with those that ended after it, failed ones, p50 in us
 *
 * Each connection has one request under way. Connections stay open between turns, and a turn is over when all have had
 * their answers, so that turns do not overlap. Answers need a content-length.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORTS = 64, MOST = 64, TIMES = 1 << 20 };

typedef struct {
  int fd;
  size_t sent;           /* bytes of the request */
  size_t had, left;      /* bytes of the answer's head; bytes that its body lacks */
  bool body, good;       /* the head is whole; and says 200 */
  bool stuck;            /* the socket took no more of the request */
  double began;          /* seconds */
  char head[4096];
} Connection;

static struct {
  int port;
  Connection all[MOST];
} places[PORTS];

static char* request;
static size_t request_size;
static int poller, under_way;
static unsigned times[TIMES], taken, late, failed;
static double end;

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void die(const char* what) {
  perror(what);
  exit(1);
}

static void watch(Connection* one, int how, unsigned events) {
  struct epoll_event event = {.events = events, .data.ptr = one};
  if (epoll_ctl(poller, how, one->fd, &event) < 0) die("epoll_ctl");
}

static void connect_to(Connection* one, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  one->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (one->fd < 0 || connect(one->fd, (struct sockaddr*)&to, sizeof to) < 0) die("connect");
  int yes = 1;
  setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  watch(one, EPOLL_CTL_ADD, EPOLLIN);
}

/* Send what is left of the request. */
static void push(Connection* one) {
  while (one->sent < request_size) {
    ssize_t went = send(one->fd, request + one->sent, request_size - one->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (went < 0 && errno != EAGAIN) die("send");
    if (went < 0) {
      if (!one->stuck) watch(one, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
      one->stuck = true;
      return;
    }
    one->sent += (size_t)went;
  }
  if (one->stuck) watch(one, EPOLL_CTL_MOD, EPOLLIN);
  one->stuck = false;
}

static void begin(Connection* one) {
  one->sent = one->had = one->left = 0;
  one->body = false;
  one->began = now();
  under_way++;
  push(one);
}

static void answered(Connection* one) {
  double at = now();
  under_way--;
  if (!one->good) failed++;
  if (at < end) {
    if (taken < TIMES) times[taken] = (unsigned)((at - one->began) * 1e6);
    taken++;
    begin(one);
  } else
    late++;
}

static void pull(Connection* one) {
  char dump[65536];
  char* to = one->body ? dump : one->head + one->had;
  ssize_t got = recv(one->fd, to, one->body ? sizeof dump : sizeof one->head - 1 - one->had, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    fprintf(stderr, "turns: a connection was closed\n");
    exit(1);
  }
  size_t more = (size_t)got;
  if (!one->body) {
    one->had += more;
    one->head[one->had] = 0;
    char* rest = strstr(one->head, "\r\n\r\n");
    if (rest == NULL) return;
    char* length = strcasestr(one->head, "\r\ncontent-length:");
    one->good = strncmp(one->head, "HTTP/1.1 200", 12) == 0;
    one->body = true;
    one->left = length != NULL && length < rest ? strtoul(length + 17, NULL, 10) : 0;
    more = (size_t)(one->head + one->had - rest - 4);
  }
  one->left -= more < one->left ? more : one->left;
  if (one->left == 0) answered(one);
}

static Connection* connections(int port) {
  int at = 0;
  while (places[at].port != port) {
    if (places[at].port == 0)
      places[at].port = port;
    else if (++at == PORTS) {
      fprintf(stderr, "turns: too many ports\n");
      exit(1);
    }
  }
  return places[at].all;
}

static int by_size(const void* left, const void* right) {
  unsigned a = *(const unsigned*)left, b = *(const unsigned*)right;
  return (a > b) - (a < b);
}

static void turn(int port, int count, double seconds) {
  Connection* all = connections(port);
  struct epoll_event events[MOST];
  taken = late = failed = 0;
  for (int i = 0; i < count; i++)
    if (all[i].fd == 0) connect_to(&all[i], port);
  double began = now();
  end = began + seconds;
  for (int i = 0; i < count; i++) begin(&all[i]);
  while (under_way > 0) {
    int ready = epoll_wait(poller, events, MOST, 10000);
    if (ready == 0 || (ready < 0 && errno != EINTR)) die("no answers");
    for (int i = 0; i < ready; i++) {
      if (events[i].events & EPOLLOUT) push(events[i].data.ptr);
      if (events[i].events & ~(unsigned)EPOLLOUT) pull(events[i].data.ptr);
    }
  }
  unsigned known = taken < TIMES ? taken : TIMES;
  qsort(times, known, sizeof *times, by_size);
  printf("%u %.6f %u %u %u\n", taken, seconds, taken + late, failed, known ? times[known / 2] : 0);
  fflush(stdout);
}

int main(int count, char** given) {
  size_t size = count > 1 ? strtoul(given[1], NULL, 10) : 0;
  request = malloc(size + 256);
  if (request == NULL || (poller = epoll_create1(0)) < 0) die("start");
  int head = sprintf(request, "%s /v2/models HTTP/1.1\r\nhost: model\r\n", size ? "POST" : "GET");
  if (size) head += sprintf(request + head, "content-length: %zu\r\n", size);
  head += sprintf(request + head, "\r\n");
  for (size_t i = 0; i < size; i++) request[(size_t)head + i] = "model "[i % 6];
  request_size = (size_t)head + size;
  int port, many, milliseconds;
  while (scanf("%d %d %d", &port, &many, &milliseconds) == 3) {
    if (many < 1 || many > MOST) return 2;
    turn(port, many, milliseconds / 1000.0);
  }
  return 0;
}
