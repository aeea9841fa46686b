/* The floor for an HTTP round trip: a server that answers a fixed text, and a client that measures.
 *
 *   ping_peer serve              prints its port; one thread, one epoll
 *   ping_peer ask PORT N GAP_US  prints the nanoseconds of N round trips, one a line
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char ASK[] = "GET /api/ping HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
static const char ANSWER[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"message\":\"pong\"}";

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void no_delay(int fd) {
    int one = 1;
    must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0, "TCP_NODELAY");
}

static int serve(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), polled = epoll_create1(0);
    must(bind(listener, (struct sockaddr *)&at, size) == 0 && listen(listener, 64) == 0, "listen");
    must(getsockname(listener, (struct sockaddr *)&at, &size) == 0, "getsockname");
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    must(epoll_ctl(polled, EPOLL_CTL_ADD, listener, &event) == 0, "epoll_ctl");
    for (;;) {
        if (epoll_wait(polled, &event, 1, -1) != 1)
            continue; /* it was stopped, and goes on */
        int fd = event.data.fd;
        if (fd == listener) {
            fd = accept(listener, NULL, NULL);
            must(fd >= 0, "accept");
            no_delay(fd);
            struct epoll_event client = {.events = EPOLLIN, .data.fd = fd};
            must(epoll_ctl(polled, EPOLL_CTL_ADD, fd, &client) == 0, "epoll_ctl");
            continue;
        }
        char data[4096];
        ssize_t got = recv(fd, data, sizeof data, 0);
        if (got <= 0 || send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) < 0)
            close(fd);
    }
}

static int ask(int port, int rounds, int gap_us) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(fd, (struct sockaddr *)&at, sizeof at) == 0, "connect");
    no_delay(fd);
    for (int round = 0; round < rounds; round++) {
        struct timespec start, end;
        char data[4096];
        size_t have = 0;
        if (gap_us)
            usleep(gap_us);
        clock_gettime(CLOCK_MONOTONIC, &start);
        must(send(fd, ASK, sizeof ASK - 1, 0) > 0, "send");
        do {
            ssize_t got = recv(fd, data + have, sizeof data - have - 1, 0);
            must(got > 0, "recv");
            have += got;
            data[have] = 0;
        } while (!strstr(data, "\"}"));
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%ld\n", (end.tv_sec - start.tv_sec) * 1000000000L + end.tv_nsec - start.tv_nsec);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "serve"))
        return serve();
    if (argc == 5 && !strcmp(argv[1], "ask"))
        return ask(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    fprintf(stderr, "usage: ping_peer serve | ask PORT N GAP_US\n");
    return 2;
}
