/* SPDX-License-Identifier: Apache-2.0
 * The NVMe-oF target. */
#include "compat.h"
#include "spdk/bdev.h"
#include "spdk/json.h"
#include "spdk/nvme.h"
#include "spdk/nvmf.h"
#include "spdk/thread.h"
#include "spdk/util.h"
#if SPDK_SINCE(24, 5)
#include "spdk/keyring.h"
#endif
#include "oriel.h"
#include "identity.h"

/* ---- target ---- */

struct spdk_nvmf_tgt *
oriel_nvmf_target_create(const char *name, uint32_t max_subsystems)
{
	struct spdk_nvmf_target_opts opts;

	oriel_nvmf_answer_for_devices();
	memset(&opts, 0, sizeof(opts));
#if SPDK_SINCE(24, 5)
	opts.size = sizeof(opts);
	/* All that SPDK knows: a target that names none refuses every host that has a key. */
	opts.dhchap_digests = 1u << SPDK_NVMF_DHCHAP_HASH_SHA256 | 1u << SPDK_NVMF_DHCHAP_HASH_SHA384 |
			      1u << SPDK_NVMF_DHCHAP_HASH_SHA512;
	opts.dhchap_dhgroups = 1u << SPDK_NVMF_DHCHAP_DHGROUP_NULL | 1u << SPDK_NVMF_DHCHAP_DHGROUP_2048 |
			       1u << SPDK_NVMF_DHCHAP_DHGROUP_3072 | 1u << SPDK_NVMF_DHCHAP_DHGROUP_4096 |
			       1u << SPDK_NVMF_DHCHAP_DHGROUP_6144 | 1u << SPDK_NVMF_DHCHAP_DHGROUP_8192;
#endif
	snprintf(opts.name, sizeof(opts.name), "%s", name);
	opts.max_subsystems = max_subsystems;
	return spdk_nvmf_tgt_create(&opts);
}

bool
oriel_nvmf_needs_acceptor(void)
{
	return !SPDK_SINCE(20, 10);
}

bool
oriel_nvmf_accept(struct spdk_nvmf_tgt *tgt)
{
#if SPDK_SINCE(20, 10)
	(void)tgt;
	return false;
#else
	return spdk_nvmf_tgt_accept(tgt) > 0;
#endif
}

struct barrier_call {
	struct spdk_nvmf_tgt *tgt;
	int rounds;
	oriel_done cb;
	void *ctx;
};

static void
barrier_step(struct spdk_io_channel_iter *i)
{
	spdk_for_each_channel_continue(i, 0);
}

static void
barrier_round(struct spdk_io_channel_iter *i, int status)
{
	struct barrier_call *call = spdk_io_channel_iter_get_ctx(i);

	if (--call->rounds > 0) {
		spdk_for_each_channel(call->tgt, barrier_step, call, barrier_round);
		return;
	}
	call->cb(call->ctx, status);
	free(call);
}

void
oriel_nvmf_barrier(struct spdk_nvmf_tgt *tgt, oriel_done cb, void *ctx)
{
	struct barrier_call *call = calloc(1, sizeof(*call));

	if (call == NULL) {
		cb(ctx, -ENOMEM);
		return;
	}
	call->tgt = tgt;
	/* A controller ends in messages from a queue's thread to the controller's and from there to the
	 * subsystem's: what the first round puts on its way has arrived by the end of the third. */
	call->rounds = 3;
	call->cb = cb;
	call->ctx = ctx;
	spdk_for_each_channel(tgt, barrier_step, call, barrier_round);
}

/* ---- transports ---- */

#define JSON_MAX 512
#define JSON_VALUES_MAX 64

struct transport_call {
	struct spdk_nvmf_tgt *tgt;
	struct oriel_nvmf_gate *gate;
	struct spdk_nvmf_transport *transport;
	oriel_done cb;
	void *ctx;
	/* Must live until the transport exists. */
	char json[JSON_MAX];
	struct spdk_json_val values[JSON_VALUES_MAX];
};

/* Takes an option into SPDK's struct, or names it if this release has no such field. */
#define TAKE(option, field) do { if (in->option >= 0) { out->field = in->option; } } while (0)
#define LACKS(option) do { if (in->option >= 0) { return #option; } } while (0)

static const char *
take_options(const struct oriel_nvmf_transport_opts *in, struct spdk_nvmf_transport_opts *out)
{
	TAKE(max_queue_depth, max_queue_depth);
	TAKE(max_qpairs_per_ctrlr, max_qpairs_per_ctrlr);
	TAKE(in_capsule_data_size, in_capsule_data_size);
	TAKE(max_io_size, max_io_size);
	TAKE(io_unit_size, io_unit_size);
	TAKE(max_aq_depth, max_aq_depth);
	TAKE(num_shared_buffers, num_shared_buffers);
	TAKE(buf_cache_size, buf_cache_size);
	TAKE(dif_insert_or_strip, dif_insert_or_strip);
	TAKE(abort_timeout_sec, abort_timeout_sec);
#if SPDK_SINCE(20, 10)
	TAKE(association_timeout_ms, association_timeout);
#else
	LACKS(association_timeout_ms);
	LACKS(no_wr_batching);
	TAKE(max_srq_depth, max_srq_depth);
	TAKE(no_srq, no_srq);
	TAKE(acceptor_backlog, acceptor_backlog);
	TAKE(c2h_success, c2h_success);
	TAKE(sock_priority, sock_priority);
#endif
#if !SPDK_SINCE(21, 1)
	LACKS(control_msg_num);
#endif
#if !SPDK_SINCE(21, 4)
	LACKS(num_cqe);
#endif
#if SPDK_SINCE(22, 1)
	TAKE(acceptor_poll_rate_us, acceptor_poll_rate);
	TAKE(zcopy, zcopy);
#else
	LACKS(acceptor_poll_rate_us);
	LACKS(zcopy);
#endif
#if SPDK_SINCE(24, 5)
	TAKE(ack_timeout_ms, ack_timeout);
	TAKE(data_wr_pool_size, data_wr_pool_size);
#else
	LACKS(ack_timeout_ms);
	LACKS(data_wr_pool_size);
#endif
#if SPDK_SINCE(24, 9)
	TAKE(disable_command_passthru, disable_command_passthru);
#else
	LACKS(disable_command_passthru);
#endif
#if SPDK_SINCE(25, 5)
	TAKE(min_kato_ms, min_kato);
	TAKE(kas, kas);
#else
	LACKS(min_kato_ms);
	LACKS(kas);
#endif
#if SPDK_SINCE(26, 1)
	if (in->oncs >= 0) {
		uint16_t bits = in->oncs;

		memcpy(&out->oncs, &bits, sizeof(bits));
	}
	if (in->fuses >= 0) {
		uint16_t bits = in->fuses;

		memcpy(&out->fuses, &bits, sizeof(bits));
	}
	SPDK_STATIC_ASSERT(sizeof(out->oncs) == 2 && sizeof(out->fuses) == 2, "fields of Identify Controller");
#else
	LACKS(oncs);
	LACKS(fuses);
#endif
#if SPDK_SINCE(26, 5)
	TAKE(iobuf_large_cache_size, iobuf_large_cache_size);
#else
	LACKS(iobuf_large_cache_size);
#endif
	return NULL;
}

#if SPDK_SINCE(20, 10)
static void
json_add(char *json, const char *name, int64_t value, bool boolean)
{
	size_t used = strlen(json);

	if (value < 0) {
		return;
	}
	if (boolean) {
		snprintf(json + used, JSON_MAX - used, "%s\"%s\":%s", used > 1 ? "," : "", name,
			 value ? "true" : "false");
	} else {
		snprintf(json + used, JSON_MAX - used, "%s\"%s\":%" PRId64, used > 1 ? "," : "", name, value);
	}
}

static bool
take_specific(const struct oriel_nvmf_transport_opts *in, struct transport_call *call,
	      struct spdk_nvmf_transport_opts *out)
{
	char *json = call->json;
	void *end;

	json[0] = '{';
	json_add(json, "max_srq_depth", in->max_srq_depth, false);
	json_add(json, "no_srq", in->no_srq, true);
	json_add(json, "acceptor_backlog", in->acceptor_backlog, false);
	json_add(json, "no_wr_batching", in->no_wr_batching, true);
	json_add(json, "num_cqe", in->num_cqe, false);
	json_add(json, "c2h_success", in->c2h_success, true);
	json_add(json, "sock_priority", in->sock_priority, false);
	json_add(json, "control_msg_num", in->control_msg_num, false);
	if (strlen(json) == 1) {
		return true;
	}
	snprintf(json + strlen(json), JSON_MAX - strlen(json), "}");
	if (spdk_json_parse(json, strlen(json), call->values, JSON_VALUES_MAX, &end, 0) <= 0) {
		return false;
	}
	out->transport_specific = call->values;
	return true;
}
#endif

static void
transport_failed(void *arg)
{
	struct transport_call *call = arg;

	call->cb(call->ctx, -EIO);
	free(call);
}

static void
transport_added(void *arg, int rc)
{
	struct transport_call *call = arg;

	if (rc == 0) {
		call->cb(call->ctx, 0);
		free(call);
		return;
	}
#if SPDK_SINCE(21, 1)
	if (spdk_nvmf_transport_destroy(call->transport, transport_failed, call) != 0) {
		transport_failed(call);
	}
#else
	spdk_nvmf_transport_destroy(call->transport);
	transport_failed(call);
#endif
}

static void
transport_made(void *arg, struct spdk_nvmf_transport *transport)
{
	struct transport_call *call = arg;

	if (transport == NULL) {
		transport_failed(call);
		return;
	}
	call->transport = transport;
	oriel_nvmf_gate_place(call->gate, transport);
	spdk_nvmf_tgt_add_transport(call->tgt, transport, transport_added, call);
}

int
oriel_nvmf_transport_add(struct spdk_nvmf_tgt *tgt, const char *name,
			 const struct oriel_nvmf_transport_opts *in, struct oriel_nvmf_gate *gate,
			 const char **unsupported, oriel_done cb, void *ctx)
{
	struct spdk_nvmf_transport_opts opts;
	struct transport_call *call;

	memset(&opts, 0, sizeof(opts));
#if SPDK_SINCE(21, 1)
	if (!spdk_nvmf_transport_opts_init(name, &opts, sizeof(opts))) {
		return -EINVAL;
	}
#else
	if (!spdk_nvmf_transport_opts_init(name, &opts)) {
		return -EINVAL;
	}
#endif
#if SPDK_SINCE(26, 1)
	/* No reservations, which nothing here wants: one that is to preempt and abort, and fails, ends the process of v26.01 and
	 * v26.05, which look at "preempt_abort" of a namespace that never got one. Earlier releases know neither this nor that. */
	opts.oncs.reservs = 0;
#endif
	*unsupported = take_options(in, &opts);
	if (*unsupported != NULL) {
		return -ENOTSUP;
	}
	call = calloc(1, sizeof(*call));
	if (call == NULL) {
		return -ENOMEM;
	}
	call->tgt = tgt;
	call->gate = gate;
	call->cb = cb;
	call->ctx = ctx;
#if SPDK_SINCE(20, 10)
	if (!take_specific(in, call, &opts)) {
		free(call);
		return -EINVAL;
	}
#endif
#if SPDK_SINCE(23, 5)
	int rc = spdk_nvmf_transport_create_async(name, &opts, transport_made, call);

	if (rc != 0) {
		free(call);
	}
	return rc;
#else
	transport_made(call, spdk_nvmf_transport_create(name, &opts));
	return 0;
#endif
}

/* ---- subsystems ---- */

struct spdk_nvmf_subsystem *
oriel_nvmf_subsystem_create(struct spdk_nvmf_tgt *tgt, const struct oriel_nvmf_subsystem_spec *spec)
{
	enum spdk_nvmf_subtype type = SPDK_NVMF_SUBTYPE_NVME;
	struct spdk_nvmf_subsystem *subsystem;

	if (spec->kind == ORIEL_NVMF_DISCOVERY) {
#if SPDK_SINCE(23, 9)
		type = SPDK_NVMF_SUBTYPE_DISCOVERY_CURRENT;
#else
		type = SPDK_NVMF_SUBTYPE_DISCOVERY;
#endif
	}
#if SPDK_SINCE(26, 5)
	struct spdk_nvmf_subsystem_opts opts;

	spdk_nvmf_subsystem_opts_init(type, &opts, sizeof(opts));
	opts.max_namespaces = spec->max_namespaces;
	if (type == SPDK_NVMF_SUBTYPE_NVME) {
		snprintf(opts.sn, sizeof(opts.sn), "%s", spec->serial);
		snprintf(opts.mn, sizeof(opts.mn), "%s", spec->model);
	}
	subsystem = spdk_nvmf_subsystem_create_ext(tgt, spec->nqn, type, &opts);
	if (subsystem == NULL) {
		return NULL;
	}
#else
	subsystem = spdk_nvmf_subsystem_create(tgt, spec->nqn, type, spec->max_namespaces);
	if (subsystem == NULL) {
		return NULL;
	}
	if (type == SPDK_NVMF_SUBTYPE_NVME) {
		spdk_nvmf_subsystem_set_sn(subsystem, spec->serial);
		spdk_nvmf_subsystem_set_mn(subsystem, spec->model);
	}
#endif
	spdk_nvmf_subsystem_set_allow_any_host(subsystem, spec->allow_any_host);
	return subsystem;
}

#if SPDK_SINCE(21, 10)
struct destroy_call {
	oriel_done cb;
	void *ctx;
};

static void
subsystem_gone(void *arg)
{
	struct destroy_call *call = arg;

	call->cb(call->ctx, 0);
	free(call);
}
#endif

void
oriel_nvmf_subsystem_destroy(struct spdk_nvmf_subsystem *subsystem, oriel_done cb, void *ctx)
{
#if SPDK_SINCE(21, 10)
	struct destroy_call *call = calloc(1, sizeof(*call));
	int rc;

	if (call == NULL) {
		cb(ctx, -ENOMEM);
		return;
	}
	call->cb = cb;
	call->ctx = ctx;
	rc = spdk_nvmf_subsystem_destroy(subsystem, subsystem_gone, call);
	/* It calls back only if controllers were left. */
	if (rc != -EINPROGRESS) {
		cb(ctx, rc);
		free(call);
	}
#else
	spdk_nvmf_subsystem_destroy(subsystem);
	cb(ctx, 0);
#endif
}

int
oriel_nvmf_subsystem_pause(struct spdk_nvmf_subsystem *subsystem, uint32_t nsid, oriel_nvmf_state_done cb, void *ctx)
{
#if SPDK_SINCE(21, 1)
	return spdk_nvmf_subsystem_pause(subsystem, nsid, cb, ctx);
#else
	return spdk_nvmf_subsystem_pause(subsystem, cb, ctx);
#endif
}

static bool
has_host(struct spdk_nvmf_subsystem *subsystem, const char *nqn)
{
	struct spdk_nvmf_host *host = spdk_nvmf_subsystem_get_first_host(subsystem);

	while (host != NULL) {
		if (strcmp(spdk_nvmf_host_get_nqn(host), nqn) == 0) {
			return true;
		}
		host = spdk_nvmf_subsystem_get_next_host(subsystem, host);
	}
	return false;
}

int
oriel_nvmf_add_host(struct spdk_nvmf_subsystem *subsystem, const char *nqn, const char *key,
		    const char *controller_key)
{
	/* Some releases take a host twice, others answer with a number that means anything. */
	if (has_host(subsystem, nqn)) {
		return -EEXIST;
	}
#if SPDK_SINCE(24, 5)
	struct spdk_nvmf_host_opts opts = { .size = sizeof(opts) };
	int rc = -ENOKEY;

	if (key != NULL) {
		opts.dhchap_key = spdk_keyring_get_key(key);
	}
	if (controller_key != NULL) {
		opts.dhchap_ctrlr_key = spdk_keyring_get_key(controller_key);
	}
	if ((key == NULL || opts.dhchap_key != NULL) &&
	    (controller_key == NULL || opts.dhchap_ctrlr_key != NULL)) {
		rc = spdk_nvmf_subsystem_add_host_ext(subsystem, nqn, &opts);
	}
	/* The subsystem holds references of its own. */
	if (opts.dhchap_key != NULL) {
		spdk_keyring_put_key(opts.dhchap_key);
	}
	if (opts.dhchap_ctrlr_key != NULL) {
		spdk_keyring_put_key(opts.dhchap_ctrlr_key);
	}
	return rc;
#else
	if (key != NULL || controller_key != NULL) {
		return -ENOTSUP;
	}
#if SPDK_SINCE(23, 5)
	return spdk_nvmf_subsystem_add_host(subsystem, nqn, NULL);
#else
	return spdk_nvmf_subsystem_add_host(subsystem, nqn);
#endif
#endif
}

void
oriel_nvmf_disconnect_host(struct spdk_nvmf_subsystem *subsystem, const char *nqn, oriel_done cb, void *ctx)
{
#if SPDK_SINCE(26, 5)
	int rc = spdk_nvmf_subsystem_disconnect_host(subsystem, nqn, cb, ctx, 0);
#elif SPDK_SINCE(20, 10)
	int rc = spdk_nvmf_subsystem_disconnect_host(subsystem, nqn, cb, ctx);
#else
	int rc = -ENOTSUP;

	(void)subsystem;
	(void)nqn;
#endif
	if (rc != 0) {
		cb(ctx, rc);
	}
}

uint32_t
oriel_nvmf_add_namespace(struct spdk_nvmf_subsystem *subsystem, const struct oriel_nvmf_namespace_opts *in)
{
	struct spdk_nvmf_ns_opts opts;

	spdk_nvmf_ns_opts_get_defaults(&opts, sizeof(opts));
	opts.nsid = in->nsid;
	if (in->uuid != NULL) {
		memcpy(&opts.uuid, in->uuid, sizeof(opts.uuid));
	}
	if (in->nguid != NULL) {
		memcpy(opts.nguid, in->nguid, sizeof(opts.nguid));
	}
	if (in->eui64 != NULL) {
		memcpy(opts.eui64, in->eui64, sizeof(opts.eui64));
	}
#if SPDK_SINCE(20, 10)
	return spdk_nvmf_subsystem_add_ns_ext(subsystem, in->bdev, &opts, sizeof(opts), NULL);
#else
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(in->bdev);

	return bdev == NULL ? 0 : spdk_nvmf_subsystem_add_ns(subsystem, bdev, &opts, sizeof(opts), NULL);
#endif
}

bool
oriel_nvmf_has_namespace(struct spdk_nvmf_subsystem *subsystem, uint32_t nsid)
{
	return spdk_nvmf_subsystem_get_ns(subsystem, nsid) != NULL;
}

/* ---- listeners ---- */

static void
to_trid(const struct oriel_nvmf_address *address, struct spdk_nvme_transport_id *trid)
{
	memset(trid, 0, sizeof(*trid));
	spdk_nvme_transport_id_populate_trstring(trid, address->transport);
	spdk_nvme_transport_id_parse_trtype(&trid->trtype, address->transport);
	trid->adrfam = address->ipv6 ? SPDK_NVMF_ADRFAM_IPV6 : SPDK_NVMF_ADRFAM_IPV4;
	snprintf(trid->traddr, sizeof(trid->traddr), "%s", address->host);
	snprintf(trid->trsvcid, sizeof(trid->trsvcid), "%s", address->port);
}

int
oriel_nvmf_listen(struct spdk_nvmf_tgt *tgt, const struct oriel_nvmf_address *address)
{
	struct spdk_nvme_transport_id trid;

	to_trid(address, &trid);
#if SPDK_SINCE(21, 1)
	struct spdk_nvmf_listen_opts opts;

	spdk_nvmf_listen_opts_init(&opts, sizeof(opts));
	return spdk_nvmf_tgt_listen_ext(tgt, &trid, &opts);
#else
	return spdk_nvmf_tgt_listen(tgt, &trid);
#endif
}

void
oriel_nvmf_stop_listen(struct spdk_nvmf_tgt *tgt, const struct oriel_nvmf_address *address,
		       struct spdk_nvmf_subsystem *subsystem, oriel_done cb, void *ctx)
{
	struct spdk_nvme_transport_id trid;

	to_trid(address, &trid);
#if SPDK_SINCE(22, 1)
	struct spdk_nvmf_transport *transport = spdk_nvmf_tgt_get_transport(tgt, address->transport);
	int rc = transport == NULL ? -EINVAL :
		 spdk_nvmf_transport_stop_listen_async(transport, &trid, subsystem, cb, ctx);

	if (rc != 0) {
		cb(ctx, rc);
	}
#else
	(void)subsystem;
	cb(ctx, spdk_nvmf_tgt_stop_listen(tgt, &trid));
#endif
}

void
oriel_nvmf_add_listener(struct spdk_nvmf_subsystem *subsystem, const struct oriel_nvmf_address *address,
			oriel_done cb, void *ctx)
{
	struct spdk_nvme_transport_id trid;

	to_trid(address, &trid);
	spdk_nvmf_subsystem_add_listener(subsystem, &trid, cb, ctx);
}

int
oriel_nvmf_remove_listener(struct spdk_nvmf_subsystem *subsystem, const struct oriel_nvmf_address *address)
{
	struct spdk_nvme_transport_id trid;

	to_trid(address, &trid);
	return spdk_nvmf_subsystem_remove_listener(subsystem, &trid);
}

/* ---- poll groups ---- */

#if SPDK_SINCE(21, 7)
struct text_call {
	void (*text)(void *ctx, const char *piece, size_t len);
	void *ctx;
};

static int
write_piece(void *arg, const void *data, size_t size)
{
	struct text_call *call = arg;

	call->text(call->ctx, data, size);
	return 0;
}
#endif

bool
oriel_nvmf_poll_group_stat(struct spdk_nvmf_tgt *tgt, struct spdk_nvmf_poll_group *group,
			   struct oriel_nvmf_stat *out, void (*text)(void *ctx, const char *piece, size_t len),
			   void *ctx)
{
#if SPDK_SINCE(21, 7)
	struct text_call call = { .text = text, .ctx = ctx };
	struct spdk_json_write_ctx *writer = spdk_json_write_begin(write_piece, &call, 0);

	if (writer != NULL) {
		spdk_nvmf_poll_group_dump_stat(group, writer);
		spdk_json_write_end(writer);
	}
	return false;
#else
	struct spdk_nvmf_poll_group_stat stat;

	memset(&stat, 0, sizeof(stat));
	spdk_nvmf_poll_group_get_stat(tgt, &stat);
	out->admin_qpairs = stat.admin_qpairs;
	out->io_qpairs = stat.io_qpairs;
	out->pending_bdev_io = stat.pending_bdev_io;
	return true;
#endif
}
