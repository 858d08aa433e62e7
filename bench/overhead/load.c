// The load generator of the overhead bench: chat calls over kept connections, each busy all the time, timed one by one.
//
// usage: load PORT CONNECTIONS STAGGER_US WARM_S SECONDS CALLS BODY_FILE PATH
//
// Each connection sends the next call as soon as the last one ended, the i-th beginning i * STAGGER_US after the start, until
// SECONDS are over or CALLS (0: any number) have begun; what is running then may end. Callers are named in x-user-id, 1,000 of
// them in turn. Prints one JSON object: all counts are of the whole run, rates and durations of what began after WARM_S.
// Text chunks are counted by what is in them ("t" and the time of sending in ns), whatever reads or HTTP chunks they came in.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_HEAD = 8192, MAX_LINE = 4096, MAX_EVENTS = 256, MAX_READ = 262144, CALLERS = 1000, PATIENCE_S = 30 };
enum state { WAITING, HEAD, BODY };
enum framing { SIZE, DATA, DATA_END, TRAILER };  // where in HTTP's chunked coding the next byte stands

struct conn {
  int fd, status, is_chunked, says_close, is_done;
  enum state state;
  enum framing framing;
  int64_t begins_ns, began_ns, first_ns, last_ns;
  size_t left, head_len, line_len;  // left: bytes of the body, or of the chunk
  char head[MAX_HEAD], line[MAX_LINE], size_line[20];
  size_t size_len;
};

struct samples {
  double *us;
  size_t count, room;
};

static struct conn *conns;
static int port, connections, epoll_fd;
static long calls_limit, begun, ended, failed, chunks, calls_in_window, chunks_in_window;
static int64_t window_from_ns, window_to_ns;
static const char *path;
static char *body, first_failure[200];
static size_t body_len;
static struct samples answer_us, first_us, gap_us, way_us;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void add(struct samples *s, int64_t ns) {
  if (s->count == s->room) s->us = realloc(s->us, (s->room = s->room ? 2 * s->room : 4096) * sizeof *s->us);
  s->us[s->count++] = (double)ns / 1000;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s) {
  if (!s->count) {
    printf(",\"%s\":null", name);
    return;
  }
  qsort(s->us, s->count, sizeof *s->us, ascending);
  size_t last = s->count - 1;
  printf(",\"%s\":{\"count\":%zu,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}", name, s->count, s->us[last / 2],
         s->us[(size_t)((double)last * 0.99)], s->us[last]);
}

// -- one call ------------------------------------------------------------------------------------------

static void call_again(struct conn *c) {
  c->state = WAITING;
  c->begins_ns = now_ns();
}

static void fail(struct conn *c, const char *why) {
  if (!failed++) snprintf(first_failure, sizeof first_failure, "%s (status %d)", why, c->status);
  close(c->fd);
  c->fd = -1;
  call_again(c);
}

static void end(struct conn *c, int64_t now) {
  if (c->status != 200) return fail(c, "an answer that is no 200");
  if (c->is_chunked && c->first_ns && !c->is_done) return fail(c, "a stream without [DONE]");
  ended++;
  if (c->began_ns >= window_from_ns) add(&answer_us, now - c->began_ns);
  if (now >= window_from_ns && now <= window_to_ns) calls_in_window++;
  if (c->says_close) {
    close(c->fd);
    c->fd = -1;
  }
  call_again(c);
}

static void reach(struct conn *c) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1, room = 1 << 18;  // a whole call fits into the kernel's buffer, so that send() is never short
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  if (connect(c->fd, (void *)&address, sizeof address) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) {
    perror("load: cannot connect");
    exit(1);
  }
}

static void begin(struct conn *c, int64_t now) {
  static char request[1 << 17];
  if (c->fd < 0) reach(c);
  size_t n = (size_t)sprintf(request,
                             "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                             "Accept: */*\r\nUser-Agent: load\r\nX-User-Id: user-%ld\r\nContent-Length: %zu\r\n\r\n",
                             path, port, begun % CALLERS, body_len);
  memcpy(request + n, body, body_len);
  begun++;
  c->began_ns = now;
  c->state = HEAD;
  c->framing = SIZE;
  c->status = c->is_chunked = c->says_close = c->is_done = 0;
  c->first_ns = c->last_ns = 0;
  c->left = c->head_len = c->line_len = c->size_len = 0;
  if (send(c->fd, request, n + body_len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)(n + body_len)) fail(c, "a call that could not be sent");
}

// -- its answer ----------------------------------------------------------------------------------------

static void on_line(struct conn *c, int64_t now) {
  c->line[c->line_len] = 0;
  c->line_len = 0;
  if (!strncmp(c->line, "data: [DONE]", 12)) c->is_done = 1;
  char *text = strstr(c->line, "\"content\":\"t");
  if (!text) return;
  chunks++;
  if (now >= window_from_ns && now <= window_to_ns) chunks_in_window++;
  if (c->began_ns >= window_from_ns) {
    if (c->first_ns) add(&gap_us, now - c->last_ns);
    else add(&first_us, now - c->began_ns);
    add(&way_us, now - strtoll(text + 12, NULL, 10));
  }
  c->last_ns = now;
  if (!c->first_ns) c->first_ns = now;
}

static void on_text(struct conn *c, const char *p, size_t n, int64_t now) {
  for (; n; p++, n--) {
    if (*p == '\n') on_line(c, now);
    else if (c->line_len < MAX_LINE - 1) c->line[c->line_len++] = *p;
  }
}

static int read_chunked(struct conn *c, const char *p, size_t n, int64_t now) {  // 1: the body has ended
  while (n) {
    if (c->framing == DATA) {
      size_t part = n < c->left ? n : c->left;
      on_text(c, p, part, now);
      p += part, n -= part, c->left -= part;
      if (!c->left) c->framing = DATA_END;
      continue;
    }
    char byte = *p++;
    n--;
    if (byte != '\n') {
      if (byte != '\r' && c->size_len < sizeof c->size_line - 1) c->size_line[c->size_len++] = byte;
      continue;
    }
    c->size_line[c->size_len] = 0;
    if (c->framing == TRAILER && !c->size_len) return 1;
    if (c->framing == SIZE) c->framing = (c->left = strtoul(c->size_line, NULL, 16)) ? DATA : TRAILER;
    else if (c->framing == DATA_END) c->framing = SIZE;
    c->size_len = 0;
  }
  return 0;
}

static size_t read_head(struct conn *c, const char *p, size_t n) {  // how many bytes of p the head took
  size_t had = c->head_len, part = n < MAX_HEAD - 1 - had ? n : MAX_HEAD - 1 - had;
  memcpy(c->head + had, p, part);
  c->head[c->head_len = had + part] = 0;
  char *close = strstr(c->head, "\r\n\r\n");
  if (!close) return n;
  close[2] = 0;
  c->status = atoi(c->head + 9);
  c->is_chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
  c->says_close = strcasestr(c->head, "\r\nconnection: close") != NULL;
  char *length = strcasestr(c->head, "\r\ncontent-length:");
  c->left = length ? strtoul(length + 17, NULL, 10) : 0;
  c->state = BODY;
  return (size_t)(close + 4 - c->head) - had;
}

static void take_in(struct conn *c) {
  static char in[MAX_READ];
  ssize_t n = recv(c->fd, in, sizeof in, MSG_DONTWAIT);
  int64_t now = now_ns();
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0 && c->state == WAITING) {
    close(c->fd);
    c->fd = -1;
    return;
  }
  if (n <= 0) return fail(c, n ? "a connection that was reset" : "a connection that ended in mid-answer");
  char *p = in;
  size_t left = (size_t)n;
  if (c->state == HEAD) {
    size_t taken = read_head(c, p, left);
    p += taken, left -= taken;
    if (c->state == HEAD) return;
  }
  if (c->is_chunked) {
    if (read_chunked(c, p, left, now)) end(c, now);
    return;
  }
  c->left -= left < c->left ? left : c->left;
  if (!c->left) end(c, now);
}

// -- the run -------------------------------------------------------------------------------------------

static int begin_what_is_due(int timer_fd) {  // 0: nothing is running and nothing will begin
  int64_t now = now_ns(), next = 0;
  int is_over = now >= window_to_ns, busy = 0;
  for (int i = 0; i < connections; i++) {
    struct conn *c = &conns[i];
    if (c->state == WAITING && (is_over || (calls_limit && begun >= calls_limit))) continue;
    busy = 1;
    if (c->state != WAITING) continue;
    if (c->begins_ns <= now) begin(c, now);
    else if (!next || c->begins_ns < next) next = c->begins_ns;
  }
  if (!next) next = is_over ? window_to_ns + PATIENCE_S * 1000000000LL : window_to_ns;
  struct itimerspec at = {.it_value = {next / 1000000000, next % 1000000000}};
  timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
  return busy && now < window_to_ns + PATIENCE_S * 1000000000LL;
}

static void read_body(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(1);
  }
  body = malloc(1 << 16);
  body_len = fread(body, 1, 1 << 16, file);
  fclose(file);
}

static void print_result(int64_t from_ns) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  double cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  int64_t to_ns = now_ns();
  double window_s = (double)((to_ns < window_to_ns ? to_ns : window_to_ns) - window_from_ns) / 1e9;
  for (int i = 0; i < connections; i++)
    if (conns[i].state != WAITING) fail(&conns[i], "a call that did not end in time");
  printf("{\"took_s\":%.4f,\"begun\":%ld,\"ended\":%ld,\"failed\":%ld,\"first_failure\":\"%s\",\"chunks\":%ld,\"calls_per_s\":%.1f,"
         "\"chunks_per_s\":%.1f,\"cpu_s\":%.3f",
         (double)(to_ns - from_ns) / 1e9, begun, ended, failed, first_failure, chunks, (double)calls_in_window / window_s,
         (double)chunks_in_window / window_s, cpu_s);
  print_samples("answer", &answer_us);
  print_samples("first_token", &first_us);
  print_samples("gap", &gap_us);
  print_samples("way", &way_us);
  printf("}\n");
}

int main(int argc, char **argv) {
  if (argc != 9) return fprintf(stderr, "usage: load PORT CONNECTIONS STAGGER_US WARM_S SECONDS CALLS BODY_FILE PATH\n"), 2;
  port = atoi(argv[1]);
  connections = atoi(argv[2]);
  calls_limit = atol(argv[6]);
  read_body(argv[7]);
  path = argv[8];
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  epoll_fd = epoll_create1(0);
  int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event events[MAX_EVENTS], timer = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &timer);
  int64_t from_ns = now_ns();
  window_from_ns = from_ns + (int64_t)(atof(argv[4]) * 1e9);
  window_to_ns = from_ns + (int64_t)(atof(argv[5]) * 1e9);
  conns = calloc((size_t)connections, sizeof *conns);
  for (int i = 0; i < connections; i++) conns[i].fd = -1, conns[i].begins_ns = from_ns + i * atoll(argv[3]) * 1000;
  while (begin_what_is_due(timer_fd)) {
    int n = epoll_wait(epoll_fd, events, MAX_EVENTS, -1);
    for (int i = 0; i < n; i++)
      if (events[i].data.ptr) take_in(events[i].data.ptr);
  }
  print_result(from_ns);
}
