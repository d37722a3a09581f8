/* A swarm of simulated Envoys: many delta ADS streams from one process, light enough never to be the bottleneck.
 *
 * Every client has its own TCP connection and speaks just enough HTTP/2 and gRPC. Like an Envoy it sends its node
 * once, subscribes to all clusters and listeners, then to what those answers name (endpoints, scopes, routes), and
 * ACKs every response. Times are CLOCK_MONOTONIC seconds, so another process on this machine may compare them.
 *
 *   swarm PORT NODE_FILE ID_PREFIX        NODE_FILE: the encoded Node without its id (field 1)
 *
 * Commands, a line each, on stdin; answers are JSON lines on stdout:
 *   connect N         open N streams at once; tells "connected" when each of them has ACKed its first RouteConfiguration
 *   expect N          arm; tells "reached" when N different clients have had a RouteConfiguration since
 *   stats             totals
 *   (end of input)    leave
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLUSTER, ENDPOINT, LISTENER, SCOPE, ROUTE, TYPES };
static const char *const TYPE_URL[TYPES] = {
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
};
static const char PATH[] = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
#define WINDOW (16u << 20)
#define MAX_FRAME 16384u

typedef struct { uint8_t *data; size_t len, cap, off; } Buffer;

typedef struct {
    int fd, index;
    char state; /* 0 connecting, 1 open, 2 gone */
    char opened[TYPES];
    char route_acked;
    unsigned epoch;
    uint32_t events;
    Buffer in;      /* bytes of frames not yet complete */
    Buffer message; /* gRPC bytes not yet a complete message */
    Buffer data;    /* gRPC bytes waiting for a flow-control window */
    Buffer out;     /* frames waiting for the socket */
    int64_t send_connection, send_stream, initial_send;
    uint32_t got; /* bytes received since the last WINDOW_UPDATE */
    uint64_t *known; /* hashes of the names subscribed to */
    size_t known_count, known_cap;
} Client;

static int port, epoll_fd;
static uint8_t *node; static size_t node_len;
static const char *id_prefix;
static Client **clients; static size_t client_count, client_cap;
static uint64_t responses[TYPES], resources_seen, bytes_in, acks, gone;
static char gone_why[200] = "";
static double connect_started; static size_t connect_goal, route_served; static char connecting;
static unsigned epoch; static size_t expected, reached; static uint64_t expect_bytes; static double last_receipt;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void die(const char *what) { perror(what); exit(2); }

static void put(Buffer *b, const void *data, size_t len) {
    if (b->off && b->off == b->len) b->off = b->len = 0;
    if (b->len + len > b->cap) {
        if (b->off) { memmove(b->data, b->data + b->off, b->len - b->off); b->len -= b->off; b->off = 0; }
        if (b->len + len > b->cap) {
            size_t cap = b->cap ? b->cap : 256;
            while (cap < b->len + len) cap *= 2;
            b->data = realloc(b->data, cap);
            if (!b->data) die("realloc");
            b->cap = cap;
        }
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}
static void drop(Buffer *b) { free(b->data); memset(b, 0, sizeof *b); }
static void frame(Client *c, uint8_t type, uint8_t flags, uint32_t stream, const void *body, size_t len) {
    uint8_t h[9] = {len >> 16, len >> 8, len, type, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    put(&c->out, h, 9);
    if (len) put(&c->out, body, len);
}
static void window_update(Client *c, uint32_t stream, uint32_t by) {
    uint8_t b[4] = {by >> 24, by >> 16, by >> 8, by};
    frame(c, 8, 0, stream, b, 4);
}

static size_t put_varint(uint8_t *to, uint64_t v) {
    size_t n = 0;
    while (v > 127) { to[n++] = (uint8_t)(v | 128); v >>= 7; }
    to[n++] = (uint8_t)v;
    return n;
}
static void put_field(Buffer *b, int number, const void *data, size_t len) {
    uint8_t h[16]; size_t n = put_varint(h, ((uint64_t)number << 3) | 2);
    n += put_varint(h + n, len);
    put(b, h, n); put(b, data, len);
}

/* Queue one DeltaDiscoveryRequest; the node is part of the first one only. */
typedef struct { const uint8_t *at; size_t len; } Text;
static void request(Client *c, int type, const Text *nonce, const Text *names, size_t count, int with_node) {
    Buffer m = {0};
    if (with_node) {
        Buffer n = {0}; char id[100];
        int len = snprintf(id, sizeof id, "%s-%d", id_prefix, c->index);
        put_field(&n, 1, id, (size_t)len);
        put(&n, node, node_len);
        put_field(&m, 1, n.data, n.len);
        drop(&n);
    }
    put_field(&m, 2, TYPE_URL[type], strlen(TYPE_URL[type]));
    for (size_t i = 0; i < count; i++) put_field(&m, 3, names[i].at, names[i].len);
    if (nonce) { put_field(&m, 6, nonce->at, nonce->len); acks++; }
    uint8_t h[5] = {0, m.len >> 24, m.len >> 16, m.len >> 8, m.len};
    put(&c->data, h, 5);
    put(&c->data, m.data, m.len);
    drop(&m);
}

/* The next field of a message; 0 at its end or when it is broken. Only varint, fixed and bytes fields exist. */
static int field(const uint8_t **at, const uint8_t *end, int *number, Text *value) {
    uint64_t key = 0, n = 0; int shift = 0;
    const uint8_t *p = *at;
    if (p >= end) return 0;
    do { if (p >= end) return 0; key |= (uint64_t)(*p & 127) << shift; shift += 7; } while (*p++ & 128);
    *number = (int)(key >> 3); shift = 0; value->at = p; value->len = 0;
    switch (key & 7) {
    case 0: do { if (p >= end) return 0; } while (*p++ & 128); break;
    case 1: p += 8; break;
    case 5: p += 4; break;
    case 2:
        do { if (p >= end) return 0; n |= (uint64_t)(*p & 127) << shift; shift += 7; } while (*p++ & 128);
        if (n > (uint64_t)(end - p)) return 0;
        value->at = p; value->len = n; p += n; break;
    default: return 0;
    }
    if (p > end) return 0;
    *at = p;
    return 1;
}

static int learn(Client *c, int type, const Text *name) {
    uint64_t h = 1469598103934665603ull + (uint64_t)type;
    for (size_t i = 0; i < name->len; i++) h = (h ^ name->at[i]) * 1099511628211ull;
    for (size_t i = 0; i < c->known_count; i++) if (c->known[i] == h) return 0;
    if (c->known_count == c->known_cap) {
        c->known_cap = c->known_cap ? c->known_cap * 2 : 8;
        c->known = realloc(c->known, c->known_cap * sizeof *c->known);
        if (!c->known) die("realloc");
    }
    c->known[c->known_count++] = h;
    return 1;
}

static void tell_connected(void) {
    if (!connecting || route_served + gone < connect_goal) return;
    connecting = 0;
    printf("{\"event\": \"connected\", \"started\": %.9f, \"at\": %.9f, \"served\": %zu, \"gone\": %llu, \"why\": \"%s\"}\n",
           connect_started, last_receipt ? last_receipt : now(), route_served, (unsigned long long)gone, gone_why);
    fflush(stdout);
}

static void receive(Client *c, const uint8_t *body, size_t len) {
    const uint8_t *at = body, *end = body + len; int number, type = -1; Text v, nonce = {0};
    while (field(&at, end, &number, &v)) {
        if (number == 4)
            for (int t = 0; t < TYPES; t++)
                if (v.len == strlen(TYPE_URL[t]) && !memcmp(v.at, TYPE_URL[t], v.len)) type = t;
        if (number == 5) nonce = v;
    }
    if (type < 0) return;
    responses[type]++;
    static Text *names; static size_t cap; size_t count = 0;
    int follow = type == CLUSTER ? ENDPOINT : type == SCOPE ? ROUTE : -1;
    for (at = body; field(&at, end, &number, &v);) {
        if (number != 2) continue;
        resources_seen++;
        if (follow < 0) continue;
        const uint8_t *ra = v.at, *re = v.at + v.len; int rn; Text rv, name = {0}, any = {0};
        while (field(&ra, re, &rn, &rv)) { if (rn == 3) name = rv; if (rn == 2) any = rv; }
        if (type == SCOPE) { /* Any.value.route_configuration_name */
            Text value = {0}; name.len = 0;
            for (ra = any.at, re = any.at + any.len; field(&ra, re, &rn, &rv);) if (rn == 2) value = rv;
            for (ra = value.at, re = value.at + value.len; field(&ra, re, &rn, &rv);) if (rn == 2) name = rv;
        }
        if (!name.len || !learn(c, follow, &name)) continue;
        if (count == cap) { cap = cap ? cap * 2 : 64; names = realloc(names, cap * sizeof *names); if (!names) die("realloc"); }
        names[count++] = name;
    }
    request(c, type, &nonce, NULL, 0, 0);
    if (count) request(c, follow, NULL, names, count, 0);
    if (type == LISTENER && !c->opened[SCOPE]) {
        Text all = {(const uint8_t *)"*", 1};
        c->opened[SCOPE] = 1;
        request(c, SCOPE, NULL, &all, 1, 0);
    }
    if (type == ROUTE) {
        double t = now();
        last_receipt = t;
        if (!c->route_acked) { c->route_acked = 1; route_served++; tell_connected(); }
        if (expected && c->epoch != epoch) {
            c->epoch = epoch;
            if (++reached == expected) {
                expected = 0;
                printf("{\"event\": \"reached\", \"at\": %.9f, \"bytes\": %llu}\n", t, (unsigned long long)(bytes_in - expect_bytes));
                fflush(stdout);
            }
        }
    }
}

static void leave(Client *c, const char *why) {
    if (c->state == 2) return;
    c->state = 2;
    gone++;
    snprintf(gone_why, sizeof gone_why, "client %d: %s", c->index, why);
    close(c->fd);
    drop(&c->in); drop(&c->message); drop(&c->data); drop(&c->out);
    tell_connected();
}

static void flush_client(Client *c) {
    if (c->state != 1) return;
    while (c->data.off < c->data.len && c->send_connection > 0 && c->send_stream > 0) {
        size_t n = c->data.len - c->data.off;
        if (n > MAX_FRAME) n = MAX_FRAME;
        if ((int64_t)n > c->send_connection) n = (size_t)c->send_connection;
        if ((int64_t)n > c->send_stream) n = (size_t)c->send_stream;
        frame(c, 0, 0, 1, c->data.data + c->data.off, n);
        c->data.off += n; c->send_connection -= (int64_t)n; c->send_stream -= (int64_t)n;
    }
    if (c->data.off == c->data.len && c->data.cap > 4096) drop(&c->data);
    while (c->out.off < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out.off, c->out.len - c->out.off, MSG_NOSIGNAL);
        if (n > 0) { c->out.off += (size_t)n; continue; }
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
        leave(c, "send failed");
        return;
    }
    if (c->out.off == c->out.len && c->out.cap > 4096) drop(&c->out);
    uint32_t want = EPOLLIN | (c->out.off < c->out.len ? EPOLLOUT : 0);
    if (want != c->events) {
        struct epoll_event e = {.events = want, .data.ptr = c};
        c->events = want;
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    }
}

static uint32_t u32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

static void take_data(Client *c, const uint8_t *body, size_t len) {
    put(&c->message, body, len);
    for (;;) {
        uint8_t *m = c->message.data + c->message.off; size_t have = c->message.len - c->message.off;
        if (have < 5 || have < 5 + (size_t)u32(m + 1)) break;
        size_t size = u32(m + 1);
        receive(c, m + 5, size);
        c->message.off += 5 + size;
    }
    if (c->message.off == c->message.len && c->message.cap > 4096) drop(&c->message);
}

static void take_frame(Client *c, uint8_t type, uint8_t flags, uint32_t stream, const uint8_t *body, size_t len) {
    static char why[120];
    switch (type) {
    case 0: {
        size_t full = len, pad = 0;
        if (flags & 8) { pad = body[0]; body++; len--; if (pad > len) pad = len; }
        c->got += (uint32_t)full;
        take_data(c, body, len - pad);
        if (c->got > WINDOW / 2) { window_update(c, 0, c->got); window_update(c, 1, c->got); c->got = 0; }
        if (flags & 1) leave(c, "stream ended");
        break;
    }
    case 1:
        if (flags & 1) leave(c, "stream ended by trailers (refused or closed by the server)");
        break;
    case 3:
        snprintf(why, sizeof why, "stream reset, code %u", len >= 4 ? u32(body) : 0);
        leave(c, why);
        break;
    case 4:
        if (flags & 1) break;
        for (size_t i = 0; i + 6 <= len; i += 6)
            if (body[i] == 0 && body[i + 1] == 4) {
                c->send_stream += (int64_t)u32(body + i + 2) - c->initial_send;
                c->initial_send = u32(body + i + 2);
            }
        frame(c, 4, 1, 0, NULL, 0);
        break;
    case 6:
        if (!(flags & 1)) frame(c, 6, 1, 0, body, len);
        break;
    case 7:
        snprintf(why, sizeof why, "GOAWAY, code %u", len >= 8 ? u32(body + 4) : 0);
        leave(c, why);
        break;
    case 8:
        if (len < 4) break;
        if (stream == 0) c->send_connection += u32(body) & 0x7fffffff; else c->send_stream += u32(body) & 0x7fffffff;
        break;
    default: break;
    }
}

static void readable(Client *c) {
    static uint8_t chunk[1 << 18];
    for (;;) {
        ssize_t n = recv(c->fd, chunk, sizeof chunk, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (n <= 0) { leave(c, n ? strerror(errno) : "connection closed"); return; }
        bytes_in += (uint64_t)n;
        /* Frames are taken straight from the chunk where they lie in it whole; only the rest is kept. */
        uint8_t *at = chunk; size_t have = (size_t)n;
        if (c->in.len > c->in.off) { put(&c->in, chunk, (size_t)n); at = c->in.data + c->in.off; have = c->in.len - c->in.off; }
        int kept = at != chunk; size_t used = 0;
        while (c->state == 1 && have - used >= 9) {
            uint8_t *f = at + used; size_t len = (size_t)f[0] << 16 | (size_t)f[1] << 8 | f[2];
            if (have - used < 9 + len) break;
            take_frame(c, f[3], f[4], u32(f + 5) & 0x7fffffff, f + 9, len);
            used += 9 + len;
        }
        if (c->state != 1) return;
        if (kept) { c->in.off += used; if (c->in.off == c->in.len) drop(&c->in); }
        else if (used < have) put(&c->in, chunk + used, have - used);
        if ((size_t)n < sizeof chunk) break;
    }
    flush_client(c);
}

static size_t literal(uint8_t *to, const char *name, const char *value) {
    size_t n = 0, l = strlen(name);
    to[n++] = 0; to[n++] = (uint8_t)l; memcpy(to + n, name, l); n += l;
    l = strlen(value); to[n++] = (uint8_t)l; memcpy(to + n, value, l); n += l; /* all shorter than 127 */
    return n;
}

static void opened(Client *c) {
    int error = 0; socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { leave(c, strerror(error)); return; }
    c->state = 1;
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    put(&c->out, preface, sizeof preface - 1);
    uint8_t settings[12] = {0, 2, 0, 0, 0, 0, 0, 4, WINDOW >> 24, (WINDOW >> 16) & 255, (WINDOW >> 8) & 255, WINDOW & 255};
    frame(c, 4, 0, 0, settings, sizeof settings);
    window_update(c, 0, WINDOW - 65535);
    uint8_t h[512]; size_t n = 0;
    h[n++] = 0x83; h[n++] = 0x86; /* :method POST, :scheme http */
    n += literal(h + n, ":path", PATH);
    n += literal(h + n, ":authority", "127.0.0.1");
    n += literal(h + n, "content-type", "application/grpc");
    n += literal(h + n, "te", "trailers");
    frame(c, 1, 4, 1, h, n);
    request(c, CLUSTER, NULL, NULL, 0, 1);
    request(c, LISTENER, NULL, NULL, 0, 0);
    flush_client(c);
}

static void open_client(void) {
    Client *c = calloc(1, sizeof *c);
    if (!c) die("calloc");
    if (client_count == client_cap) {
        client_cap = client_cap ? client_cap * 2 : 64;
        clients = realloc(clients, client_cap * sizeof *clients);
        if (!clients) die("realloc");
    }
    clients[client_count] = c;
    c->index = (int)client_count++;
    c->send_connection = c->send_stream = c->initial_send = 65535;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    c->events = EPOLLOUT;
    int done = connect(c->fd, (struct sockaddr *)&to, sizeof to);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    if (done < 0 && errno != EINPROGRESS) leave(c, strerror(errno));
}

static void command(char *line) {
    size_t n;
    if (sscanf(line, "connect %zu", &n) == 1) {
        connect_goal = client_count + n; connecting = 1; connect_started = now();
        for (size_t i = 0; i < n; i++) open_client();
        tell_connected();
    } else if (sscanf(line, "expect %zu", &n) == 1) {
        epoch++; reached = 0; expected = n; expect_bytes = bytes_in;
        printf("{\"event\": \"armed\", \"at\": %.9f}\n", now());
    } else if (!strncmp(line, "stats", 5)) {
        size_t routes = 0, open = 0, ready = 0;
        for (size_t i = 0; i < client_count; i++) { open += clients[i]->state == 1; ready += clients[i]->route_acked; routes += clients[i]->epoch == epoch; }
        printf("{\"event\": \"stats\", \"open\": %zu, \"served\": %zu, \"since_armed\": %zu, \"gone\": %llu, \"why\": \"%s\", \"bytes\": %llu, "
               "\"acks\": %llu, \"resources\": %llu, \"responses\": {\"cluster\": %llu, \"endpoint\": %llu, \"listener\": %llu, \"scope\": %llu, \"route\": %llu}}\n",
               open, ready, routes, (unsigned long long)gone, gone_why, (unsigned long long)bytes_in, (unsigned long long)acks,
               (unsigned long long)resources_seen, (unsigned long long)responses[0], (unsigned long long)responses[1],
               (unsigned long long)responses[2], (unsigned long long)responses[3], (unsigned long long)responses[4]);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "usage: swarm PORT NODE_FILE ID_PREFIX\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    port = atoi(argv[1]); id_prefix = argv[3];
    FILE *f = fopen(argv[2], "rb");
    if (!f) die(argv[2]);
    node = malloc(1 << 20); node_len = fread(node, 1, 1 << 20, f); fclose(f);
    struct rlimit files; getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, ready[512];
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &e)) die("stdin must be a pipe");
    Buffer line = {0};
    for (;;) {
        int n = epoll_wait(epoll_fd, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            Client *c = ready[i].data.ptr;
            if (!c) {
                char chunk[4096]; ssize_t got = read(0, chunk, sizeof chunk);
                if (got <= 0) return 0;
                for (ssize_t k = 0; k < got; k++) {
                    char b = chunk[k] == '\n' ? 0 : chunk[k];
                    put(&line, &b, 1);
                    if (!b) { command((char *)line.data + line.off); line.len = line.off = 0; }
                }
            } else if (c->state == 0) opened(c);
            else if (c->state == 1) {
                if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
                if (c->state == 1 && (ready[i].events & EPOLLOUT)) flush_client(c);
            }
        }
    }
}
