/* SPDX-License-Identifier: Apache-2.0
 * Block devices, as their maker: a bdev module whose devices answer through a table of callbacks. */
#include "compat.h"
#include "spdk/bdev.h"
#include "spdk/bdev_module.h"
#include "spdk/thread.h"
#include "spdk/uuid.h"
#include "oriel.h"
#include "io_type.h"
#include "identity.h"

#define OPCODES 256

struct oriel_bdev {
	struct spdk_bdev bdev;
	struct oriel_bdev_ops ops;
	void *ctx;
	uint32_t effects[OPCODES];
};

struct channel_state {
	void *state;
};

static int
module_init(void)
{
	return 0;
}

static void
module_fini(void)
{
}

static struct spdk_bdev_module oriel_module = {
	.name = "oriel",
	.module_init = module_init,
	.module_fini = module_fini,
};

SPDK_BDEV_MODULE_REGISTER(oriel, &oriel_module)

static int
channel_create(void *io_device, void *buf)
{
	struct oriel_bdev *dev = io_device;
	struct channel_state *ch = buf;

	ch->state = dev->ops.channel_create(dev->ctx);
	return ch->state == NULL ? -ENOMEM : 0;
}

static void
channel_destroy(void *io_device, void *buf)
{
	struct oriel_bdev *dev = io_device;
	struct channel_state *ch = buf;

	dev->ops.channel_destroy(dev->ctx, ch->state);
}

static void
free_device(struct oriel_bdev *dev)
{
	free(dev->bdev.name);
	free(dev->bdev.product_name);
	free(dev);
}

static void
channels_gone(void *io_device)
{
	struct oriel_bdev *dev = io_device;

	dev->ops.destruct(dev->ctx);
	spdk_bdev_destruct_done(&dev->bdev, 0);
	free_device(dev);
}

static int
fn_destruct(void *ctx)
{
	/* 1: the end is reported later, when the last channel is gone. */
	spdk_io_device_unregister(ctx, channels_gone);
	return 1;
}

static void
hand_over(struct spdk_io_channel *ch, struct spdk_bdev_io *io)
{
	struct oriel_bdev *dev = io->bdev->ctxt;
	struct channel_state *state = spdk_io_channel_get_ctx(ch);

	dev->ops.submit(dev->ctx, state->state, io);
}

static void
read_has_buffer(struct spdk_io_channel *ch, struct spdk_bdev_io *io, bool success)
{
	if (success) {
		hand_over(ch, io);
	} else {
		spdk_bdev_io_complete(io, SPDK_BDEV_IO_STATUS_NOMEM);
	}
}

static void
fn_submit(struct spdk_io_channel *ch, struct spdk_bdev_io *io)
{
	if (io->type == SPDK_BDEV_IO_TYPE_READ) {
		spdk_bdev_io_get_buf(io, read_has_buffer, io->u.bdev.num_blocks * io->bdev->blocklen);
	} else {
		hand_over(ch, io);
	}
}

static bool
fn_supports(void *ctx, enum spdk_bdev_io_type type)
{
	struct oriel_bdev *dev = ctx;
	int known = io_type_from_spdk(type);

	return known != ORIEL_IO_OTHER && dev->ops.supports(dev->ctx, known);
}

static struct spdk_io_channel *
fn_channel(void *ctx)
{
	return spdk_get_io_channel(ctx);
}

static const struct spdk_bdev_fn_table g_fn_table = {
	.destruct = fn_destruct,
	.submit_request = fn_submit,
	.io_type_supported = fn_supports,
	.get_io_channel = fn_channel,
};

int
oriel_bdev_register(const struct oriel_bdev_spec *spec, const struct oriel_bdev_ops *ops, void *ctx,
		    struct oriel_bdev **out)
{
	struct oriel_bdev *dev = calloc(1, sizeof(*dev));
	int rc;

	if (dev == NULL) {
		return -ENOMEM;
	}
	dev->ops = *ops;
	dev->ctx = ctx;
	memcpy(dev->effects, spec->effects, sizeof(dev->effects));
	dev->bdev.ctxt = dev;
	dev->bdev.name = strdup(spec->name);
	dev->bdev.product_name = strdup(spec->product);
	dev->bdev.blocklen = spec->block_size;
	dev->bdev.blockcnt = spec->blocks;
	dev->bdev.optimal_io_boundary = spec->optimal_boundary_blocks;
	dev->bdev.split_on_optimal_io_boundary = spec->optimal_boundary_blocks != 0;
	dev->bdev.write_cache = spec->write_cache;
	memcpy(&dev->bdev.uuid, spec->uuid, sizeof(spec->uuid));
	dev->bdev.fn_table = &g_fn_table;
	dev->bdev.module = &oriel_module;
	if (dev->bdev.name == NULL || dev->bdev.product_name == NULL) {
		free_device(dev);
		return -ENOMEM;
	}
	spdk_io_device_register(dev, channel_create, channel_destroy, sizeof(struct channel_state), spec->name);
	rc = spdk_bdev_register(&dev->bdev);
	if (rc != 0) {
		spdk_io_device_unregister(dev, NULL);
		free_device(dev);
		return rc;
	}
	*out = dev;
	return 0;
}

const uint32_t *
oriel_bdev_effects(const struct spdk_bdev *bdev)
{
	const struct oriel_bdev *dev;

	if (bdev->module != &oriel_module) {
		return NULL;
	}
	dev = bdev->ctxt;
	return dev->effects;
}

struct unregister_call {
	oriel_done cb;
	void *ctx;
};

static void
unregistered(void *arg, int rc)
{
	struct unregister_call call = *(struct unregister_call *)arg;

	free(arg);
	call.cb(call.ctx, rc);
}

void
oriel_bdev_unregister(struct oriel_bdev *dev, oriel_done cb, void *ctx)
{
	struct unregister_call *call = calloc(1, sizeof(*call));

	if (call == NULL) {
		cb(ctx, -ENOMEM);
		return;
	}
	call->cb = cb;
	call->ctx = ctx;
	spdk_bdev_unregister(&dev->bdev, unregistered, call);
}

void
oriel_io_get(struct spdk_bdev_io *io, struct oriel_io *out)
{
	memset(out, 0, sizeof(*out));
	out->type = io_type_from_spdk(io->type);
	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_NVME_ADMIN:
	case SPDK_BDEV_IO_TYPE_NVME_IO:
		out->nvme_cmd = &io->u.nvme_passthru.cmd;
		out->nvme_buf = io->u.nvme_passthru.buf;
		out->nvme_len = io->u.nvme_passthru.nbytes;
		break;
#if SPDK_SINCE(24, 1)
	case SPDK_BDEV_IO_TYPE_NVME_IOV_MD:
		out->nvme_cmd = &io->u.nvme_passthru.cmd;
		/* Several buffers are none to devices of ours, which then find the transfer too short. */
		if (io->u.nvme_passthru.iovcnt == 1 &&
		    io->u.nvme_passthru.iovs[0].iov_len >= io->u.nvme_passthru.nbytes) {
			out->nvme_buf = io->u.nvme_passthru.iovs[0].iov_base;
			out->nvme_len = io->u.nvme_passthru.nbytes;
		}
		break;
#endif
	case SPDK_BDEV_IO_TYPE_RESET:
	case SPDK_BDEV_IO_TYPE_ABORT:
		break;
	default:
		out->iov = io->u.bdev.iovs;
		out->iovcnt = io->u.bdev.iovcnt;
		out->offset_blocks = io->u.bdev.offset_blocks;
		out->num_blocks = io->u.bdev.num_blocks;
		break;
	}
}

void
oriel_io_complete(struct spdk_bdev_io *io, bool success)
{
	spdk_bdev_io_complete(io, success ? SPDK_BDEV_IO_STATUS_SUCCESS : SPDK_BDEV_IO_STATUS_FAILED);
}

void
oriel_io_complete_nvme(struct spdk_bdev_io *io, uint32_t cdw0, int sct, int sc)
{
	spdk_bdev_io_complete_nvme_status(io, cdw0, sct, sc);
}
