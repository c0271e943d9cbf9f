/* SPDX-License-Identifier: Apache-2.0
 * The NVMe-oF target, as oriel.h's other parts: SPDK's structs stay opaque, and nvmf.c absorbs
 * what differs between the releases. */
#ifndef ORIEL_NVMF_H
#define ORIEL_NVMF_H

struct spdk_nvmf_tgt;
struct spdk_nvmf_subsystem;
struct spdk_nvmf_poll_group;

/* ---- target ---- */

struct spdk_nvmf_tgt *oriel_nvmf_target_create(const char *name, uint32_t max_subsystems);
void spdk_nvmf_tgt_destroy(struct spdk_nvmf_tgt *tgt, void (*cb)(void *ctx, int rc), void *ctx);
/* True in v20.07, where nobody accepts connections unless oriel_nvmf_accept is called again and again. */
bool oriel_nvmf_needs_acceptor(void);
bool oriel_nvmf_accept(struct spdk_nvmf_tgt *tgt);
/* Calls back once every message that the poll groups' threads had for each other has run. */
void oriel_nvmf_barrier(struct spdk_nvmf_tgt *tgt, oriel_done cb, void *ctx);

/* ---- transports ---- */

/* Every option is -1 where SPDK's default is wanted. */
struct oriel_nvmf_transport_opts {
	int64_t max_queue_depth;
	int64_t max_qpairs_per_ctrlr;
	int64_t in_capsule_data_size;
	int64_t max_io_size;
	int64_t io_unit_size;
	int64_t max_aq_depth;
	int64_t num_shared_buffers;
	int64_t buf_cache_size;
	int64_t dif_insert_or_strip;
	int64_t abort_timeout_sec;
	int64_t association_timeout_ms;
	int64_t acceptor_poll_rate_us;
	int64_t zcopy;
	int64_t ack_timeout_ms;
	int64_t data_wr_pool_size;
	int64_t disable_command_passthru;
	int64_t min_kato_ms;
	int64_t kas;
	int64_t oncs;
	int64_t fuses;
	int64_t iobuf_large_cache_size;
	/* RDMA */
	int64_t max_srq_depth;
	int64_t no_srq;
	int64_t acceptor_backlog;
	int64_t no_wr_batching;
	int64_t num_cqe;
	/* TCP */
	int64_t c2h_success;
	int64_t sock_priority;
	int64_t control_msg_num;
};
/* Stands before a transport: enter() says whether it takes another queue pair of a host, leave() that one has gone. Both
 * are called on the threads of poll groups. The gate goes after the target. */
struct oriel_nvmf_gate;
struct spdk_nvmf_transport;
struct oriel_nvmf_gate *oriel_nvmf_gate_new(bool (*enter)(void *ctx), void (*leave)(void *ctx), void *ctx);
void oriel_nvmf_gate_free(struct oriel_nvmf_gate *gate);
void oriel_nvmf_gate_place(struct oriel_nvmf_gate *gate, struct spdk_nvmf_transport *transport);
/* A gate says by these when this thread's poll group has its turn, at a time in ticks, which is not 0. In a turn, a socket that
 * takes nothing is asked again only after an eighth of the time that it has taken nothing, or after `longest`. */
void oriel_stalls_begin(uint64_t now, uint64_t longest);
void oriel_stalls_end(void);

/* Makes a transport and adds it to the target, behind a gate. -ENOTSUP without a callback when an option is set
 * that this release lacks; *unsupported is its name then. Else the callback comes, maybe at once. */
int oriel_nvmf_transport_add(struct spdk_nvmf_tgt *tgt, const char *name,
			     const struct oriel_nvmf_transport_opts *opts, struct oriel_nvmf_gate *gate,
			     const char **unsupported, oriel_done cb, void *ctx);

/* ---- subsystems ---- */

enum oriel_nvmf_kind { ORIEL_NVMF_NVME = 0, ORIEL_NVMF_DISCOVERY = 1 };
struct oriel_nvmf_subsystem_spec {
	const char *nqn;
	const char *serial;
	const char *model;
	uint32_t max_namespaces;
	int kind;
	bool allow_any_host;
};
/* NULL when SPDK refuses. */
struct spdk_nvmf_subsystem *oriel_nvmf_subsystem_create(struct spdk_nvmf_tgt *tgt,
		const struct oriel_nvmf_subsystem_spec *spec);
/* The subsystem must be stopped. Controllers still ending are waited for, except in releases
 * before v21.10: there a barrier must have passed. */
void oriel_nvmf_subsystem_destroy(struct spdk_nvmf_subsystem *subsystem, oriel_done cb, void *ctx);
struct spdk_nvmf_subsystem *spdk_nvmf_tgt_find_subsystem(struct spdk_nvmf_tgt *tgt, const char *nqn);

typedef void (*oriel_nvmf_state_done)(struct spdk_nvmf_subsystem *subsystem, void *ctx, int rc);
/* A positive or negative result means that the change did not begin and nothing calls back. */
int spdk_nvmf_subsystem_start(struct spdk_nvmf_subsystem *subsystem, oriel_nvmf_state_done cb, void *ctx);
int spdk_nvmf_subsystem_stop(struct spdk_nvmf_subsystem *subsystem, oriel_nvmf_state_done cb, void *ctx);
/* Holds connects and admin commands back, and the commands to one namespace (0: to none; v20.07: to all). From v21.01 to
 * v26.05 SPDK keeps the number in 16 bits, so that its tag for all namespaces means none. */
int oriel_nvmf_subsystem_pause(struct spdk_nvmf_subsystem *subsystem, uint32_t nsid, oriel_nvmf_state_done cb, void *ctx);
int spdk_nvmf_subsystem_resume(struct spdk_nvmf_subsystem *subsystem, oriel_nvmf_state_done cb, void *ctx);

int spdk_nvmf_subsystem_set_allow_any_host(struct spdk_nvmf_subsystem *subsystem, bool allow);
/* Keys are names in SPDK's keyring or NULL. -ENOTSUP when keys are given and this release has no
 * DH-HMAC-CHAP; -ENOKEY when the keyring has no such key; -EEXIST when the host is there. */
int oriel_nvmf_add_host(struct spdk_nvmf_subsystem *subsystem, const char *nqn, const char *key,
			const char *controller_key);
int spdk_nvmf_subsystem_remove_host(struct spdk_nvmf_subsystem *subsystem, const char *nqn);
/* Ends the connections of a host to the subsystem. -ENOTSUP before v20.10. From v26.05 on cb runs when they have ended,
 * before when their end has begun. */
void oriel_nvmf_disconnect_host(struct spdk_nvmf_subsystem *subsystem, const char *nqn, oriel_done cb, void *ctx);

struct oriel_nvmf_namespace_opts {
	const char *bdev;
	/* 0: the lowest that is free. */
	uint32_t nsid;
	/* NULL: the block device's; NULL: none; NULL: none. */
	const uint8_t *uuid;
	const uint8_t *nguid;
	const uint8_t *eui64;
};
/* The namespace's number; 0 when SPDK refuses. */
uint32_t oriel_nvmf_add_namespace(struct spdk_nvmf_subsystem *subsystem,
				  const struct oriel_nvmf_namespace_opts *opts);
bool oriel_nvmf_has_namespace(struct spdk_nvmf_subsystem *subsystem, uint32_t nsid);
int spdk_nvmf_subsystem_remove_ns(struct spdk_nvmf_subsystem *subsystem, uint32_t nsid);

/* ---- listeners ---- */

struct oriel_nvmf_address {
	const char *transport;
	const char *host;
	const char *port;
	bool ipv6;
};
int oriel_nvmf_listen(struct spdk_nvmf_tgt *tgt, const struct oriel_nvmf_address *address);
/* Ends one oriel_nvmf_listen. The connections that came in for the subsystem by this address are
 * ended where the release can tell them apart: from v22.01 on. */
void oriel_nvmf_stop_listen(struct spdk_nvmf_tgt *tgt, const struct oriel_nvmf_address *address,
			    struct spdk_nvmf_subsystem *subsystem, oriel_done cb, void *ctx);
void oriel_nvmf_add_listener(struct spdk_nvmf_subsystem *subsystem, const struct oriel_nvmf_address *address,
			     oriel_done cb, void *ctx);
int oriel_nvmf_remove_listener(struct spdk_nvmf_subsystem *subsystem,
			       const struct oriel_nvmf_address *address);

/* ---- poll groups ---- */

struct spdk_nvmf_poll_group *spdk_nvmf_poll_group_create(struct spdk_nvmf_tgt *tgt);
void spdk_nvmf_poll_group_destroy(struct spdk_nvmf_poll_group *group, void (*cb)(void *ctx, int rc), void *ctx);

struct oriel_nvmf_stat {
	uint32_t admin_qpairs;
	uint32_t io_qpairs;
	uint64_t pending_bdev_io;
};
/* Whether this release may keep a connection whose host is gone: since v23.05, where it went in the middle of a PDU. */
bool oriel_nvmf_keeps_gone(void);
/* Ends the group's connections by TCP of whose hosts' addresses is_gone says so. On the group's thread. */
void oriel_nvmf_end_gone(struct spdk_nvmf_poll_group *group,
			 bool (*is_gone)(void *ctx, const char *host, const char *port), void *ctx);
/* True if *out was filled. Else the numbers went to `text` as JSON, in pieces. */
bool oriel_nvmf_poll_group_stat(struct spdk_nvmf_tgt *tgt, struct spdk_nvmf_poll_group *group,
				struct oriel_nvmf_stat *out, void (*text)(void *ctx, const char *piece, size_t len),
				void *ctx);

#endif
