/* An HTTP/1.1 server whose answers take a time that is known: the truth that load generators are held to.
 *
 *   load_target mix | lognormal | stall | hold | fast  SEED
 *
 * One thread, one epoll; any number of requests wait at the same time, so that there is no queue in here. The first line
 * on stdout is the port. On SIGTERM it writes, as text on stdout, one line for each request: the microseconds between
 * its last byte being read and its answer being written.
 *
 *   mix        60 % 5 ms, 35 % 20 ms, 4.5 % 100 ms, 0.5 % 400 ms
 *   lognormal  median 20 ms, sigma 0.8
 *   stall      5 ms, but of every 20 s the first 2 s answer nothing before they are over
 *   hold       3 s
 *   fast       at once
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FILES = 65536, BUFFER = 8192 };
#define STALL_EVERY 20000000000ULL
#define STALL_FOR 2000000000ULL

struct due { uint64_t at, read_at; int file; uint32_t life; };

static struct due *heap;
static size_t heap_size, heap_room;
static uint32_t life[MOST_FILES]; /* grows when a connection ends: its answers are then for nobody */
static char held[MOST_FILES][BUFFER];
static int held_bytes[MOST_FILES];
static uint32_t *truth;
static size_t truths, truth_room;
static uint64_t started, state;
static const char *kind;
static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\napp-version: v1\r\n\r\nok";

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static double uniform(void) { /* xorshift64*, in (0, 1) */
    state ^= state >> 12; state ^= state << 25; state ^= state >> 27;
    return ((double)((state * 2685821657736338717ULL) >> 11) + 0.5) / 9007199254740992.0;
}

static uint64_t delay(uint64_t at) {
    if (!strcmp(kind, "mix")) {
        double u = uniform();
        return u < 0.6 ? 5000000 : u < 0.95 ? 20000000 : u < 0.995 ? 100000000 : 400000000;
    }
    if (!strcmp(kind, "lognormal"))
        return (uint64_t)(20e6 * exp(0.8 * sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform())));
    if (!strcmp(kind, "stall")) {
        uint64_t phase = (at - started) % STALL_EVERY;
        return 5000000 + (phase < STALL_FOR ? STALL_FOR - phase : 0);
    }
    return strcmp(kind, "hold") ? 0 : 3000000000ULL;
}

static void push(struct due one) {
    if (heap_size == heap_room) heap = realloc(heap, (heap_room = heap_room ? heap_room * 2 : 4096) * sizeof *heap);
    size_t i = heap_size++;
    for (; i && heap[(i - 1) / 2].at > one.at; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = one;
}

static struct due pop(void) {
    struct due top = heap[0], last = heap[--heap_size];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < heap_size) {
        if (child + 1 < heap_size && heap[child + 1].at < heap[child].at) child++;
        if (heap[child].at >= last.at) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void respond(struct due one) {
    if (one.life != life[one.file]) return;
    if (write(one.file, answer, sizeof answer - 1) < 0) return;
    if (truths == truth_room) truth = realloc(truth, (truth_room = truth_room ? truth_room * 2 : 1 << 20) * sizeof *truth);
    truth[truths++] = (uint32_t)((now() - one.read_at) / 1000);
}

/* How many bytes the first request in the buffer takes; 0 if it is not whole yet. */
static int whole(char *data, int bytes) {
    char *end = memmem(data, (size_t)bytes, "\r\n\r\n", 4);
    if (!end) return 0;
    int head = (int)(end - data) + 4, body = 0;
    for (char *line = data; line < end; line = strchr(line, '\n') + 1)
        if (!strncasecmp(line, "content-length:", 15)) body = atoi(line + 15);
    return head + body <= bytes ? head + body : 0;
}

static void take(int file) {
    int got = (int)read(file, held[file] + held_bytes[file], (size_t)(BUFFER - 1 - held_bytes[file]));
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { life[file]++; held_bytes[file] = 0; close(file); return; }
    held_bytes[file] += got;
    held[file][held_bytes[file]] = 0;
    uint64_t at = now();
    int used;
    while ((used = whole(held[file], held_bytes[file])) > 0) {
        uint64_t wait = delay(at);
        struct due one = {at + wait, at, file, life[file]};
        memmove(held[file], held[file] + used, (size_t)(held_bytes[file] -= used) + 1);
        if (wait) push(one); else respond(one);
    }
}

static void arm(int timer) {
    struct itimerspec when = {{0, 0}, {0, 0}};
    if (heap_size) {
        when.it_value.tv_sec = (time_t)(heap[0].at / 1000000000ULL);
        when.it_value.tv_nsec = (long)(heap[0].at % 1000000000ULL);
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

int main(int count, char **given) {
    if (count != 3) { fprintf(stderr, "usage: load_target mix|lognormal|stall|hold|fast SEED\n"); return 2; }
    kind = given[1];
    state = strtoull(given[2], NULL, 10) * 2654435769ULL + 88172645463325252ULL;
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set); sigaddset(&set, SIGTERM); sigprocmask(SIG_BLOCK, &set, NULL);
    int stop = signalfd(-1, &set, 0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1, epoll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    if (bind(server, (struct sockaddr *)&address, length) || listen(server, 4096)) { perror("listen"); return 1; }
    getsockname(server, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int watched[] = {server, timer, stop};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {EPOLLIN, {.fd = watched[i]}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, watched[i], &event);
    }
    started = now();
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int file = events[i].data.fd;
            if (file == stop) {
                for (size_t k = 0; k < truths; k++) printf("%u\n", truth[k]);
                return 0;
            } else if (file == timer) {
                uint64_t ignored;
                if (read(timer, &ignored, 8) < 0) continue;
            } else if (file == server) {
                int peer;
                while ((peer = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (peer >= MOST_FILES) { close(peer); continue; }
                    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    struct epoll_event event = {EPOLLIN, {.fd = peer}};
                    epoll_ctl(epoll, EPOLL_CTL_ADD, peer, &event);
                }
            } else take(file);
        }
        uint64_t at = now();
        while (heap_size && heap[0].at <= at) respond(pop());
        arm(timer);
    }
}
