/* SPDX-License-Identifier: Apache-2.0
 * Who decides how many queue pairs of hosts a transport serves: SPDK does not. It adds a new pair to a poll group, and
 * takes it out again at its end, by operations of the transport, which are the same in every release. Ours stand before
 * them; a pair that they do not add is one that SPDK hangs up on, before it has memory of its own. */
#include "compat.h"
#include "spdk/nvmf_transport.h"
#include "spdk/util.h"
#include "oriel.h"

struct oriel_nvmf_gate {
	/* What the transport has instead of its own. */
	struct spdk_nvmf_transport_ops ops;
	const struct spdk_nvmf_transport_ops *own;
	bool (*enter)(void *ctx);
	void (*leave)(void *ctx);
	void *ctx;
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
	transport->ops = &gate->ops;
}
