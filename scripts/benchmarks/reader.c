/* What reads in every benchmark: the same program for every filesystem, so that only they differ.
 *
 *     reader seq PATH...                        read whole files in sequence, 1 MiB at a time
 *     reader direct PATH...                     the same with O_DIRECT, as hypervisors read
 *     reader same PATH ORIGINAL                 compare two files
 *     reader random PATH ORIGINAL SECONDS SEED  4 KiB pages in random order, none twice
 *     reader points PATH ORIGINAL OFFSET...     open, first byte, then 4 KiB at each offset
 *     reader replay PATH ORIGINAL TRACE         the reads of a trace (t,offset,length), no pauses
 *     reader connect HOST PORT COUNT            open TCP connections: the round trip time
 *     reader touch MIB                          take so much memory, write to it, let it go
 *
 * Prints one line of JSON; times are in nanoseconds. What was read is compared with the original
 * between the timed calls, so times are sums over the calls and not of the clock on the wall.
 * A difference is exit 9. SIGTERM ends `random` early, with its figures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, STEP = 1 << 20, DIFFERENT = 9 };

static char buffer[STEP] __attribute__((aligned(PAGE)));
static volatile sig_atomic_t stopping;

static void fail(const char *what)
{
	perror(what);
	exit(3);
}

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void stop(int number)
{
	(void)number;
	stopping = 1;
}

static int opened_with(const char *path, int flags)
{
	int fd = open(path, O_RDONLY | flags);
	if (fd < 0)
		fail(path);
	return fd;
}

static int opened(const char *path)
{
	return opened_with(path, 0);
}

struct original {
	const char *bytes;
	size_t size;
};

static struct original mapped(const char *path)
{
	struct stat st;
	int fd = opened(path);
	if (fstat(fd, &st))
		fail(path);
	char *bytes = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		fail(path);
	close(fd);
	return (struct original){bytes, st.st_size};
}

/* Read exactly these bytes, compare them, and return how long the reading took. */
static int64_t timed(int fd, struct original original, size_t length, off_t offset)
{
	if (length > STEP || offset + length > original.size) {
		fprintf(stderr, "reader: %zu bytes at %jd are not in the original\n", length, (intmax_t)offset);
		exit(3);
	}
	int64_t began = now();
	for (size_t done = 0; done < length;) {
		ssize_t got = pread(fd, buffer + done, length - done, offset + done);
		if (got <= 0)
			fail("pread");
		done += got;
	}
	int64_t took = now() - began;
	if (memcmp(buffer, original.bytes + offset, length)) {
		fprintf(stderr, "reader: wrong bytes at %jd\n", (intmax_t)offset);
		exit(DIFFERENT);
	}
	return took;
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static void summary(int64_t *times, size_t count)
{
	int64_t sum = 0;
	for (size_t i = 0; i < count; i++)
		sum += times[i];
	qsort(times, count, sizeof *times, ascending);
	printf("{\"reads\": %zu, \"ns\": %" PRId64 ", \"p50\": %" PRId64 ", \"p99\": %" PRId64 "}\n", count, sum,
	       count ? times[count / 2] : 0, count ? times[count * 99 / 100] : 0);
}

static int sequence(char **paths, int count, int flags)
{
	int64_t bytes = 0, began = now();
	for (int i = 0; i < count; i++) {
		int fd = opened_with(paths[i], flags);
		ssize_t got;
		while ((got = read(fd, buffer, STEP)) > 0)
			bytes += got;
		if (got < 0)
			fail(paths[i]);
		close(fd);
	}
	printf("{\"bytes\": %" PRId64 ", \"ns\": %" PRId64 "}\n", bytes, now() - began);
	return 0;
}

static int same(const char *path, const char *other)
{
	struct original original = mapped(other);
	size_t offset = 0;
	int fd = opened(path);
	ssize_t got;
	while ((got = read(fd, buffer, STEP)) > 0) {
		if (offset + got > original.size || memcmp(buffer, original.bytes + offset, got)) {
			fprintf(stderr, "reader: wrong bytes in the MiB at %zu\n", offset);
			return DIFFERENT;
		}
		offset += got;
	}
	if (got < 0)
		fail(path);
	if (offset != original.size) {
		fprintf(stderr, "reader: %zu bytes instead of %zu\n", offset, original.size);
		return DIFFERENT;
	}
	printf("{\"bytes\": %zu}\n", offset);
	return 0;
}

static int at_random(const char *path, const char *other, double seconds, unsigned seed)
{
	struct original original = mapped(other);
	size_t pages = original.size / PAGE, done = 0;
	uint32_t *order = malloc(pages * sizeof *order);
	int64_t *times = malloc(pages * sizeof *times);
	int fd = opened(path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* else the kernel reads ahead of every page */
	srandom(seed);
	for (size_t i = 0; i < pages; i++) {
		size_t j = random() % (i + 1);
		order[i] = order[j];
		order[j] = i;
	}
	signal(SIGTERM, stop);
	int64_t end = now() + (int64_t)(seconds * 1e9);
	while (done < pages && !stopping && now() < end) {
		times[done] = timed(fd, original, PAGE, (off_t)order[done] * PAGE);
		done++;
	}
	summary(times, done);
	return 0;
}

static int points(const char *path, const char *other, char **offsets, int count)
{
	struct original original = mapped(other);
	int64_t began = now();
	int fd = opened(path);
	printf("{\"open\": %" PRId64, now() - began);
	printf(", \"first\": %" PRId64 ", \"reads\": [", timed(fd, original, 1, 0));
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (int i = 0; i < count; i++)
		printf("%s%" PRId64, i ? ", " : "", timed(fd, original, PAGE, atoll(offsets[i])));
	puts("]}");
	return 0;
}

static int replay(const char *path, const char *other, const char *trace)
{
	struct original original = mapped(other);
	size_t count = 0, room = 1 << 16;
	int64_t *times = malloc(room * sizeof *times);
	char line[128];
	FILE *file = fopen(trace, "r");
	if (!file)
		fail(trace);
	int fd = opened(path);
	intmax_t offset;
	size_t length;
	while (fgets(line, sizeof line, file) && count < room)
		if (sscanf(line, "%*f,%jd,%zu", &offset, &length) == 2)
			times[count++] = timed(fd, original, length, offset);
	summary(times, count);
	return 0;
}

static int connections(const char *host, int port, int count)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_pton(AF_INET, host, &to.sin_addr);
	printf("{\"connects\": [");
	for (int i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		int64_t began = now();
		if (connect(fd, (struct sockaddr *)&to, sizeof to))
			fail("connect");
		printf("%s%" PRId64, i ? ", " : "", now() - began);
		close(fd);
	}
	puts("]}");
	return 0;
}

static int touch(size_t size)
{
	void *room = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (room == MAP_FAILED)
		fail("mmap");
	munmap(room, size);
	puts("{}");
	return 0;
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "";
	if (!strcmp(what, "seq") && count > 2)
		return sequence(words + 2, count - 2, 0);
	if (!strcmp(what, "direct") && count > 2)
		return sequence(words + 2, count - 2, O_DIRECT);
	if (!strcmp(what, "same") && count == 4)
		return same(words[2], words[3]);
	if (!strcmp(what, "random") && count == 6)
		return at_random(words[2], words[3], atof(words[4]), atoi(words[5]));
	if (!strcmp(what, "points") && count > 3)
		return points(words[2], words[3], words + 4, count - 4);
	if (!strcmp(what, "replay") && count == 5)
		return replay(words[2], words[3], words[4]);
	if (!strcmp(what, "connect") && count == 5)
		return connections(words[2], atoi(words[3]), atoi(words[4]));
	if (!strcmp(what, "touch") && count == 3)
		return touch((size_t)atoi(words[2]) << 20);
	fputs("usage: reader seq|direct|same|random|points|replay|connect|touch ...\n", stderr);
	return 2;
}
