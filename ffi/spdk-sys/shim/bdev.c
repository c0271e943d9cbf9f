/* SPDX-License-Identifier: Apache-2.0
 * Block devices, as their user. */
#include "compat.h"
#include "spdk/bdev.h"
#include "spdk/thread.h"
#include "spdk/uuid.h"
#include "oriel.h"
#include "event.h"
#include "io_type.h"

struct event_sink {
	oriel_bdev_event_fn fn;
	void *ctx;
};

static void
bdev_event(enum spdk_bdev_event_type type, struct spdk_bdev *bdev, void *arg)
{
	struct event_sink *sink = arg;

	(void)bdev;
	sink->fn(sink->ctx, event_from_spdk(type));
}

int
oriel_bdev_open(const char *name, bool write, oriel_bdev_event_fn fn, void *ctx,
		struct spdk_bdev_desc **desc, void **handle)
{
	struct event_sink *sink = malloc(sizeof(*sink));
	int rc;

	if (sink == NULL) {
		return -ENOMEM;
	}
	sink->fn = fn;
	sink->ctx = ctx;
	rc = spdk_bdev_open_ext(name, write, bdev_event, sink, desc);
	if (rc != 0) {
		free(sink);
		return rc;
	}
	*handle = sink;
	return 0;
}

void
oriel_bdev_close(struct spdk_bdev_desc *desc, void *handle)
{
	/* After close SPDK drops the events it has queued for this descriptor. */
	spdk_bdev_close(desc);
	free(handle);
}

void
oriel_bdev_info(const struct spdk_bdev *bdev, struct oriel_bdev_info *info)
{
	info->name = spdk_bdev_get_name(bdev);
	info->product = spdk_bdev_get_product_name(bdev);
	info->blocks = spdk_bdev_get_num_blocks(bdev);
	info->block_size = spdk_bdev_get_block_size(bdev);
	info->write_unit_blocks = spdk_bdev_get_write_unit_size(bdev);
	info->optimal_boundary_blocks = spdk_bdev_get_optimal_io_boundary(bdev);
	info->buffer_align = spdk_bdev_get_buf_align(bdev);
	info->write_cache = spdk_bdev_has_write_cache(bdev);
	memcpy(info->uuid, spdk_bdev_get_uuid(bdev), sizeof(info->uuid));
}

bool
oriel_bdev_supports(struct spdk_bdev *bdev, int oriel_io_type)
{
	return spdk_bdev_io_type_supported(bdev, io_type_to_spdk(oriel_io_type));
}

void
oriel_bdev_io_nvme_status(const struct spdk_bdev_io *io, uint32_t *cdw0, int *sct, int *sc)
{
	spdk_bdev_io_get_nvme_status(io, cdw0, sct, sc);
}

struct wait_call {
	struct spdk_bdev_io_wait_entry entry;
	void (*fn)(void *);
	void *ctx;
};

static void
wait_over(void *arg)
{
	struct wait_call *call = arg;
	void (*fn)(void *) = call->fn;
	void *ctx = call->ctx;

	free(call);
	fn(ctx);
}

int
oriel_bdev_wait(struct spdk_bdev *bdev, struct spdk_io_channel *ch, void (*fn)(void *), void *ctx)
{
	struct wait_call *call = calloc(1, sizeof(*call));
	int rc;

	if (call == NULL) {
		return -ENOMEM;
	}
	call->entry.bdev = bdev;
	call->entry.cb_fn = wait_over;
	call->entry.cb_arg = call;
	call->fn = fn;
	call->ctx = ctx;
	rc = spdk_bdev_queue_io_wait(bdev, ch, &call->entry);
	if (rc != 0) {
		free(call);
	}
	return rc;
}

struct stat_call {
	struct spdk_bdev_io_stat *stat;
	struct oriel_bdev_stat *out;
	oriel_done cb;
	void *ctx;
};

static void
stat_ready(struct spdk_bdev *bdev, struct spdk_bdev_io_stat *stat, void *arg, int rc)
{
	struct stat_call *call = arg;

	(void)bdev;
	if (rc == 0) {
		call->out->bytes_read = stat->bytes_read;
		call->out->reads = stat->num_read_ops;
		call->out->bytes_written = stat->bytes_written;
		call->out->writes = stat->num_write_ops;
		call->out->bytes_unmapped = stat->bytes_unmapped;
		call->out->unmaps = stat->num_unmap_ops;
		call->out->read_latency_ticks = stat->read_latency_ticks;
		call->out->write_latency_ticks = stat->write_latency_ticks;
		call->out->unmap_latency_ticks = stat->unmap_latency_ticks;
	}
	call->cb(call->ctx, rc);
	free(call->stat);
	free(call);
}

int
oriel_bdev_stat(struct spdk_bdev *bdev, struct oriel_bdev_stat *out, oriel_done cb, void *ctx)
{
	struct stat_call *call = calloc(1, sizeof(*call));

	if (call == NULL) {
		return -ENOMEM;
	}
	/* Newer releases keep an error table behind the counters and fill it if the pointer is set. */
	call->stat = calloc(1, sizeof(*call->stat));
	if (call->stat == NULL) {
		free(call);
		return -ENOMEM;
	}
	call->out = out;
	call->cb = cb;
	call->ctx = ctx;
#if SPDK_SINCE(25, 1)
	spdk_bdev_get_device_stat(bdev, call->stat, SPDK_BDEV_RESET_STAT_NONE, stat_ready, call);
#else
	spdk_bdev_get_device_stat(bdev, call->stat, stat_ready, call);
#endif
	return 0;
}
