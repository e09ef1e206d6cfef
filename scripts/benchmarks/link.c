/* A network link with a delay and a rate between two network namespaces, in one process.
 *
 *     link DELAY_US MBIT QUEUE_BYTES
 *
 * Makes two namespaces without names, a tun device "link0" in each (10.11.12.1 is the server's side,
 * 10.11.12.2 the client's) and prints one line: the descriptors of the two namespaces. Enter one with
 * nsenter --net=/proc/PID/fd/N. Everything is gone when this process is, which is on SIGTERM and when
 * its parent dies: a name in /run/netns would stay.
 *
 * Why not netem: many kernels are built without it. Why large packets: with IFF_VNET_HDR and
 * TUNSETOFFLOAD the kernel hands over what TCP wants to send in units of up to 64 KiB, not yet cut
 * into segments, and takes them back that way. So a gigabit costs a few thousand packets a second
 * instead of eighty thousand, and the link does not take the processor away from what is measured.
 * The time on the wire is reckoned for the segments that a network card would have made of it, with
 * their Ethernet, IP and TCP headers, preamble and gap.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
	MTU = 1500,
	LARGEST = 65536 + sizeof(struct virtio_net_hdr),
	FRAME = 38, /* preamble 8, Ethernet header 14, checksum 4, gap 12 */
	RING = 32 << 20, /* far more than delay * rate + queue: the queue's limit drops, not the ring */
};

/* What travels in one direction: a ring of bytes that holds records {due, length, packet}. */
struct record {
	int64_t due; /* when the last bit arrives, in ns */
	uint32_t length; /* of the packet with its virtio header; 0: go on at the ring's start */
};

struct lane {
	int from, to;
	char *ring;
	size_t head, tail; /* where the next record is written, and the oldest one is */
	size_t used;
	int64_t idle_at; /* when the transmitter has sent all it was given */
	unsigned long dropped;
};

static int64_t delay_ns, queue_bytes;
static double ns_per_byte;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void setting(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		fprintf(stderr, "link: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void address(const char *device, const char *text)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq r = {0};
	struct sockaddr_in *in = (struct sockaddr_in *)&r.ifr_addr;
	strncpy(r.ifr_name, device, IFNAMSIZ - 1);
	if (text) {
		in->sin_family = AF_INET;
		inet_pton(AF_INET, text, &in->sin_addr);
		if (ioctl(fd, SIOCSIFADDR, &r))
			fail("SIOCSIFADDR");
		inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
		if (ioctl(fd, SIOCSIFNETMASK, &r))
			fail("SIOCSIFNETMASK");
		r.ifr_mtu = MTU;
		if (ioctl(fd, SIOCSIFMTU, &r))
			fail("SIOCSIFMTU");
		r.ifr_qlen = 10000; /* ours is the queue that drops */
		if (ioctl(fd, SIOCSIFTXQLEN, &r))
			fail("SIOCSIFTXQLEN");
	}
	if (ioctl(fd, SIOCGIFFLAGS, &r))
		fail("SIOCGIFFLAGS");
	r.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &r))
		fail("SIOCSIFFLAGS");
	close(fd);
}

/* Make a namespace with its end of the link; return the tun device, and the namespace in `*space`. */
static int end_of_link(const char *text, int *space)
{
	if (unshare(CLONE_NEWNET))
		fail("unshare");
	*space = open("/proc/self/ns/net", O_RDONLY);
	if (*space < 0)
		fail("/proc/self/ns/net");
	/* What one run's connections learned about the path must not help the next run. */
	setting("/proc/sys/net/ipv4/tcp_no_metrics_save", "1");
	setting("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	if (fd < 0)
		fail("/dev/net/tun");
	struct ifreq r = {0};
	r.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
	strcpy(r.ifr_name, "link0");
	if (ioctl(fd, TUNSETIFF, &r))
		fail("TUNSETIFF");
	if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4))
		fail("TUNSETOFFLOAD");
	address("lo", NULL);
	address("link0", text);
	return fd;
}

/* Bytes on the wire of a packet, once a network card had cut it into segments. */
static int64_t on_wire(const char *packet, size_t length)
{
	const struct virtio_net_hdr *header = (const void *)packet;
	int64_t bytes = length - sizeof *header, segments = 1;
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && header->gso_size) {
		int64_t payload = bytes - header->hdr_len;
		segments = (payload + header->gso_size - 1) / header->gso_size;
		bytes = payload + segments * header->hdr_len;
	}
	return bytes + segments * FRAME;
}

/* Take one packet in. Returns 0 when there is none. */
static int take(struct lane *lane)
{
	size_t room = sizeof(struct record) + LARGEST;
	static char waste[LARGEST];
	/* What is lost at the ring's end counts as used, hence twice the room. */
	int full = lane->used + 2 * room > RING;
	if (!full && lane->head + room > RING) {
		if (lane->head + sizeof(struct record) <= RING)
			((struct record *)(lane->ring + lane->head))->length = 0;
		lane->used += RING - lane->head;
		lane->head = 0;
	}
	char *place = full ? waste : lane->ring + lane->head + sizeof(struct record);
	ssize_t length = read(lane->from, place, LARGEST);
	if (length <= (ssize_t)sizeof(struct virtio_net_hdr))
		return 0;
	int64_t moment = now();
	int64_t start = lane->idle_at > moment ? lane->idle_at : moment;
	if (full || (start - moment) / ns_per_byte > queue_bytes) {
		lane->dropped++;
		return 1;
	}
	struct record *record = (struct record *)(lane->ring + lane->head);
	lane->idle_at = start + (int64_t)(on_wire(place, length) * ns_per_byte);
	record->due = lane->idle_at + delay_ns;
	record->length = length;
	size_t step = (sizeof *record + length + 15) & ~(size_t)15;
	lane->head += step;
	lane->used += step;
	return 1;
}

/* Hand over what is due; return when the next packet is, or INT64_MAX. */
static int64_t deliver(struct lane *lane)
{
	while (lane->used) {
		struct record *record = (struct record *)(lane->ring + lane->tail);
		if (lane->tail + sizeof *record > RING || !record->length) {
			lane->used -= RING - lane->tail;
			lane->tail = 0;
			continue;
		}
		if (record->due > now())
			return record->due;
		char *packet = (char *)(record + 1);
		if (write(lane->to, packet, record->length) < 0 && errno != EAGAIN)
			lane->dropped++;
		size_t step = (sizeof *record + record->length + 15) & ~(size_t)15;
		lane->tail += step;
		lane->used -= step;
	}
	return INT64_MAX;
}

static struct lane lanes[2];

static void stop(int number)
{
	(void)number;
	_exit(0);
}

int main(int count, char **words)
{
	if (count != 4) {
		fprintf(stderr, "usage: link DELAY_US MBIT QUEUE_BYTES\n");
		return 2;
	}
	delay_ns = atoll(words[1]) * 1000;
	ns_per_byte = 8000.0 / atof(words[2]);
	queue_bytes = atoll(words[3]);
	signal(SIGTERM, stop);
	signal(SIGINT, SIG_IGN); /* the terminal's Ctrl-C is for the harness, which ends us last */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_TIMERSLACK, 1);
	/* A cable does not wait for its turn on a busy processor. */
	struct sched_param first = {.sched_priority = 1};
	if (sched_setscheduler(0, SCHED_RR, &first))
		perror("link: sched_setscheduler");

	int spaces[2], server = end_of_link("10.11.12.1", &spaces[0]);
	int client = end_of_link("10.11.12.2", &spaces[1]);
	lanes[0] = (struct lane){.from = server, .to = client};
	lanes[1] = (struct lane){.from = client, .to = server};
	for (int i = 0; i < 2; i++)
		if (!(lanes[i].ring = malloc(RING)))
			fail("malloc");
	printf("%d %d\n", spaces[0], spaces[1]);
	fflush(stdout);
	for (;;) {
		struct pollfd waiting[2] = {{server, POLLIN, 0}, {client, POLLIN, 0}};
		int64_t next = INT64_MAX;
		for (int i = 0; i < 2; i++) {
			int64_t due = deliver(&lanes[i]);
			next = due < next ? due : next;
		}
		int64_t wait = next == INT64_MAX ? 1000000000 : next - now();
		struct timespec limit = {wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0};
		if (ppoll(waiting, 2, &limit, NULL) <= 0)
			continue;
		for (int i = 0; i < 2; i++)
			for (int n = 0; waiting[i].revents & POLLIN && n < 32 && take(&lanes[i]); n++)
				;
	}
}
