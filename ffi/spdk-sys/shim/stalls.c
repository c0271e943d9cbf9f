/* SPDX-License-Identifier: Apache-2.0
 * How often the kernel is asked whether a host takes what waits for it. In all releases SPDK asks in each turn of a poll group,
 * by one call of sendmsg() for each connection that something waits for: those whose hosts take nothing cost the
 * others a call each for as long as they stay. Nothing of SPDK can be told to ask less often, so sendmsg() is defined here. It is
 * the kernel's, but during a turn of a poll group: there a socket that was full a moment ago is taken to be full still. */
#include "compat.h"
#include <sys/syscall.h>
#include "oriel.h"

/* Sockets that are full at once. One that shares its place with another is asked more often, and no more than that. */
#define PLACES 256
/* A host waits longer by so much of the time that it let the node wait. */
#define PART 8

struct stall {
	int fd;
	/* When it was found full; 0 if it is not. */
	uint64_t since;
	/* When it is asked again. */
	uint64_t again;
};

struct turn {
	/* 0 between turns. */
	uint64_t now;
	uint64_t longest;
	struct stall stalls[PLACES];
};

static _Thread_local struct turn g_turn;

void
oriel_stalls_begin(uint64_t now, uint64_t longest)
{
	g_turn.now = now;
	g_turn.longest = longest;
}

void
oriel_stalls_end(void)
{
	g_turn.now = 0;
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct turn *turn = &g_turn;
	struct stall *stall;
	bool is_full;
	ssize_t rc;

	if (turn->now == 0) {
		return syscall(SYS_sendmsg, fd, msg, flags);
	}
	stall = &turn->stalls[(unsigned int)fd % PLACES];
	is_full = stall->fd == fd && stall->since != 0;
	if (is_full && turn->now < stall->again) {
		errno = EAGAIN;
		return -1;
	}
	rc = syscall(SYS_sendmsg, fd, msg, flags);
	if (rc < 0 && errno == EAGAIN) {
		uint64_t pause;

		if (!is_full) {
			stall->fd = fd;
			stall->since = turn->now;
		}
		pause = (turn->now - stall->since) / PART;
		stall->again = turn->now + (pause < turn->longest ? pause : turn->longest);
	} else if (is_full) {
		stall->since = 0;
	}
	return rc;
}
