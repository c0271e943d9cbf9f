/* SPDX-License-Identifier: Apache-2.0
 * Who decides how many queue pairs of hosts a transport serves: SPDK does not. It adds a new pair to a poll group, and
 * takes it out again at its end, by operations of the transport, which are the same in every release. Ours stand before
 * them; a pair that they do not add is one that SPDK hangs up on, before it has memory of its own. In the same way ours know
 * when a poll group has its turn. */
#include "compat.h"
#include "spdk/env.h"
#include "spdk/nvmf_transport.h"
#include "spdk/util.h"
#include "oriel.h"

/* A host that has taken nothing is asked again after a millisecond at the latest. */
#define ASKED_A_SECOND 1000

struct oriel_nvmf_gate {
	/* What the transport has instead of its own. */
	struct spdk_nvmf_transport_ops ops;
	const struct spdk_nvmf_transport_ops *own;
	bool (*enter)(void *ctx);
	void (*leave)(void *ctx);
	void *ctx;
	uint64_t stall_ticks;
};

static struct oriel_nvmf_gate *
gate_of(struct spdk_nvmf_transport_poll_group *group)
{
	return SPDK_CONTAINEROF(group->transport->ops, struct oriel_nvmf_gate, ops);
}

static int
gate_add(struct spdk_nvmf_transport_poll_group *group, struct spdk_nvmf_qpair *qpair)
{
	struct oriel_nvmf_gate *gate = gate_of(group);
	int rc;

	if (!gate->enter(gate->ctx)) {
		return -EMFILE;
	}
	rc = gate->own->poll_group_add(group, qpair);
	if (rc != 0) {
		gate->leave(gate->ctx);
	}
	return rc;
}

static int
gate_remove(struct spdk_nvmf_transport_poll_group *group, struct spdk_nvmf_qpair *qpair)
{
	struct oriel_nvmf_gate *gate = gate_of(group);
	/* What SPDK says itself of transports that have none. */
	int rc = ENOTSUP;

	if (gate->own->poll_group_remove != NULL) {
		rc = gate->own->poll_group_remove(group, qpair);
	}
	gate->leave(gate->ctx);
	return rc;
}

static int
gate_poll(struct spdk_nvmf_transport_poll_group *group)
{
	struct oriel_nvmf_gate *gate = gate_of(group);
	int rc;

	oriel_stalls_begin(spdk_get_ticks(), gate->stall_ticks);
	rc = gate->own->poll_group_poll(group);
	oriel_stalls_end();
	return rc;
}

struct oriel_nvmf_gate *
oriel_nvmf_gate_new(bool (*enter)(void *ctx), void (*leave)(void *ctx), void *ctx)
{
	struct oriel_nvmf_gate *gate = calloc(1, sizeof(*gate));

	if (gate != NULL) {
		gate->enter = enter;
		gate->leave = leave;
		gate->ctx = ctx;
	}
	return gate;
}

void
oriel_nvmf_gate_free(struct oriel_nvmf_gate *gate)
{
	free(gate);
}

void
oriel_nvmf_gate_place(struct oriel_nvmf_gate *gate, struct spdk_nvmf_transport *transport)
{
	gate->own = transport->ops;
	gate->ops = *transport->ops;
	gate->ops.poll_group_add = gate_add;
	gate->ops.poll_group_remove = gate_remove;
	gate->ops.poll_group_poll = gate_poll;
	gate->stall_ticks = spdk_get_ticks_hz() / ASKED_A_SECOND;
	transport->ops = &gate->ops;
}
