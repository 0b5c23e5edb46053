/* A program for images, which have nothing else: makes, changes and removes files, slowly enough to be caught at it, and leaves a
 * process behind. `tool NUMBER`. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void pause_ms(long ms) {
    struct timespec time = {0, ms * 1000000};
    nanosleep(&time, NULL);
}

static void put(const char *path, int number, size_t size) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0) fail(path);
    char bytes[4096];
    memset(bytes, 'a' + number, sizeof bytes);
    for (size_t at = 0; at < size; at += sizeof bytes)
        if (write(file, bytes, sizeof bytes) != sizeof bytes) fail("write");
    close(file);
}

int main(int count, char **words) {
    int number = count > 1 ? atoi(words[1]) : 0;
    char path[64], other[64];
    if (fork() == 0) {
        sleep(1000);
        return 0;
    }
    snprintf(path, sizeof path, "/made-%d", number);
    if (mkdir(path, 0755) != 0) fail(path);
    for (int file = 0; file < 40; file++) {
        snprintf(path, sizeof path, "/made-%d/%d", number, file);
        put(path, file % 26, 64 << 10);
        if (file % 8 == 0) pause_ms(2);
    }
    snprintf(other, sizeof other, "/made-%d/link", number);
    if (link(path, other) != 0) fail(other);
    if (number > 0) {
        /* What the command before it made: one file goes, one is replaced, one changes. */
        snprintf(path, sizeof path, "/made-%d/1", number - 1);
        if (unlink(path) != 0) fail(path);
        snprintf(path, sizeof path, "/made-%d/2", number - 1);
        if (unlink(path) != 0 || mkdir(path, 01777) != 0) fail(path);
        snprintf(path, sizeof path, "/made-%d/3", number - 1);
        put(path, number, 4096);
        if (chmod(path, 04755) != 0) fail(path);
    }
    if (number == 2) {
        /* A cache keeps files of former runs; a secret is there to read. */
        snprintf(path, sizeof path, "/cache/%d", (int)time(NULL) % 7);
        put(path, 3, 256 << 10);
        char secret[64];
        int file = open("/run/secrets/token", O_RDONLY);
        if (file < 0 || read(file, secret, sizeof secret) < 20) fail("the secret");
    }
    return 0;
}
