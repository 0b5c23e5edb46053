/* Extended attributes in hexadecimal digits: `attribute PATH NAME` prints one, `-` where there is none; `attribute PATH NAME HEX` sets
 * one. */
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

int main(int count, char **words) {
    unsigned char value[256];
    if (count == 3) {
        ssize_t size = getxattr(words[1], words[2], value, sizeof value);
        for (ssize_t at = 0; at < size; at++) printf("%02x", value[at]);
        puts(size < 0 ? "-" : "");
        return 0;
    }
    if (count != 4) return 2;
    size_t size = strlen(words[3]) / 2;
    for (size_t at = 0; at < size && at < sizeof value; at++) sscanf(words[3] + 2 * at, "%2hhx", &value[at]);
    if (setxattr(words[1], words[2], value, size, 0) == 0) return 0;
    perror(words[2]);
    return 1;
}
