/* SPDX-License-Identifier: Apache-2.0
 * The blobstore. */
#include "compat.h"
#include "spdk/bdev.h"
#include "spdk/bdev_module.h"
#include "spdk/blob.h"
#include "spdk/blob_bdev.h"
#include "spdk/crc32.h"
#include "spdk/log.h"
#include "spdk/thread.h"
#include "oriel.h"
#include "event.h"

SPDK_STATIC_ASSERT(ORIEL_BLOB_TYPE_BYTES == SPDK_BLOBSTORE_TYPE_LENGTH, "the type's length");
SPDK_STATIC_ASSERT(ORIEL_BLOB_ID_NONE == SPDK_BLOBID_INVALID, "the id that is none");

static int
module_init(void)
{
	return 0;
}

static void
module_fini(void)
{
}

/* In whose name the devices are claimed; it has no devices of its own. */
static struct spdk_bdev_module blob_module = {
	.name = "oriel_blob",
	.module_init = module_init,
	.module_fini = module_fini,
};

SPDK_BDEV_MODULE_REGISTER(oriel_blob, &blob_module)

/* SPDK destroys a device some time after a load has failed, and says to nobody when. The devices of
 * this OS thread are listed here, so that their destroy function can tell. */
static __thread struct oriel_bs_dev_watch *g_watches;

static void
dev_destroy(struct spdk_bs_dev *dev)
{
	struct oriel_bs_dev_watch **link = &g_watches;
	struct oriel_bs_dev_watch *watch;

	while (*link != NULL && (*link)->dev != dev) {
		link = &(*link)->next;
	}
	watch = *link;
	if (watch == NULL) {
		SPDK_ERRLOG("a blobstore's device is destroyed on a thread that did not open it\n");
		abort();
	}
	*link = watch->next;
	spdk_bdev_module_release_bdev(watch->bdev);
	watch->destroy(dev);
	watch->released(watch->ctx);
}

static void
dev_event(enum spdk_bdev_event_type type, struct spdk_bdev *bdev, void *arg)
{
	struct oriel_bs_dev_watch *watch = arg;

	(void)bdev;
	watch->event(watch->ctx, event_from_spdk(type));
}

int
oriel_bdev_examined(void (*cb)(void *), void *ctx)
{
#if SPDK_SINCE(21, 1)
	return spdk_bdev_wait_for_examine(cb, ctx);
#else
	/* Older releases have no way to wait, and let a device be claimed all the same. */
	cb(ctx);
	return 0;
#endif
}

static int
dev_open(const char *name, struct oriel_bs_dev_watch *watch, struct spdk_bs_dev **dev)
{
#if SPDK_SINCE(20, 10)
	return spdk_bdev_create_bs_dev_ext(name, dev_event, watch, dev);
#else
	struct spdk_bdev_desc *desc;
	int rc = spdk_bdev_open_ext(name, true, dev_event, watch, &desc);

	if (rc != 0) {
		return rc;
	}
	*dev = spdk_bdev_create_bs_dev_from_desc(desc);
	if (*dev == NULL) {
		spdk_bdev_close(desc);
		return -ENOMEM;
	}
	return 0;
#endif
}

static void
no_event(enum spdk_bdev_event_type type, struct spdk_bdev *bdev, void *ctx)
{
	(void)type;
	(void)bdev;
	(void)ctx;
}

/* The device of that name, which stays as long as the caller has it open. */
static int
bdev_of(const char *name, struct spdk_bdev **bdev)
{
	struct spdk_bdev_desc *desc;
	int rc = spdk_bdev_open_ext(name, false, no_event, NULL, &desc);

	if (rc == 0) {
		*bdev = spdk_bdev_desc_get_bdev(desc);
		spdk_bdev_close(desc);
	}
	return rc;
}

/* Not by spdk_bs_bdev_claim(): in newer releases it refuses a device that anybody else has open for writing, and
 * whoever wants to flush the device has to have it open so, since a blobstore has no flush. This claim refuses
 * those who come afterwards, as that of older releases does. */
int
oriel_bs_dev_open(const char *name, struct oriel_bs_dev_watch *watch, struct spdk_bs_dev **out)
{
	struct spdk_bs_dev *dev;
	int rc = dev_open(name, watch, &dev);

	if (rc != 0) {
		return rc;
	}
	rc = bdev_of(name, &watch->bdev);
	if (rc == 0) {
		rc = spdk_bdev_module_claim_bdev(watch->bdev, NULL, &blob_module);
	}
	if (rc != 0) {
		dev->destroy(dev);
		return rc;
	}
	watch->dev = dev;
	watch->destroy = dev->destroy;
	watch->next = g_watches;
	g_watches = watch;
	dev->destroy = dev_destroy;
	*out = dev;
	return 0;
}

static void
bs_opts(struct spdk_bs_opts *o, const struct oriel_bs_opts *opts)
{
#if SPDK_SINCE(21, 1)
	spdk_bs_opts_init(o, sizeof(*o));
#else
	spdk_bs_opts_init(o);
#endif
	memcpy(o->bstype.bstype, opts->type, sizeof(o->bstype.bstype));
	o->max_channel_ops = opts->max_channel_ops;
	/* A drive is not trimmed first: before v20.10 the trim's length overflows on large ones, and
	 * what a new cluster holds is unspecified anyway. */
	o->clear_method = BS_CLEAR_WITH_NONE;
	if (opts->cluster_bytes != 0) {
		o->cluster_sz = opts->cluster_bytes;
	}
	if (opts->md_pages != 0) {
		o->num_md_pages = opts->md_pages;
	}
}

void
oriel_bs_init(struct spdk_bs_dev *dev, const struct oriel_bs_opts *opts, oriel_bs_ready cb, void *ctx)
{
	struct spdk_bs_opts o;

	bs_opts(&o, opts);
	spdk_bs_init(dev, &o, cb, ctx);
}

void
oriel_bs_load(struct spdk_bs_dev *dev, const struct oriel_bs_opts *opts, oriel_bs_ready cb, void *ctx)
{
	struct spdk_bs_opts o;

	bs_opts(&o, opts);
	spdk_bs_load(dev, &o, cb, ctx);
}

/* What place_read() fills in, while oriel_blob_place() runs on this OS thread. */
static __thread uint64_t *g_place;
/* No request reaches it: only one that is held up may still be meant for it. */
static uint8_t g_nowhere[4096] __attribute__((aligned(4096)));

static void
place_read(struct spdk_bs_dev *dev, struct spdk_io_channel *ch, void *payload, uint64_t lba, uint32_t lba_count,
	   struct spdk_bs_dev_cb_args *cb_args)
{
	(void)dev;
	(void)ch;
	(void)payload;
	(void)lba_count;
	*g_place = lba;
	cb_args->cb_fn(cb_args->channel, cb_args->cb_arg, 0);
}

static void
place_done(void *ctx, int rc)
{
	(void)ctx;
	(void)rc;
}

bool
oriel_blob_place(struct spdk_bs_dev *dev, struct spdk_blob *blob, struct spdk_io_channel *ch, uint64_t unit,
		 uint64_t *device_block)
{
	__typeof__(dev->read) read = dev->read;

	*device_block = UINT64_MAX;
	g_place = device_block;
	dev->read = place_read;
	spdk_blob_io_read(blob, ch, g_nowhere, unit, 1, place_done, NULL);
	dev->read = read;
	g_place = NULL;
	return *device_block != UINT64_MAX;
}

struct list_call {
	struct spdk_blob_store *bs;
	void (*found)(void *ctx, uint64_t id, uint64_t clusters);
	oriel_done done;
	void *ctx;
};

static void
list_step(void *arg, struct spdk_blob *blob, int rc)
{
	struct list_call *call = arg;

	if (rc != 0) {
		call->done(call->ctx, rc == -ENOENT ? 0 : rc);
		free(call);
		return;
	}
	call->found(call->ctx, spdk_blob_get_id(blob), spdk_blob_get_num_clusters(blob));
	spdk_bs_iter_next(call->bs, blob, list_step, call);
}

void
oriel_bs_list(struct spdk_blob_store *bs, void (*found)(void *ctx, uint64_t id, uint64_t clusters),
	      oriel_done done, void *ctx)
{
	struct list_call *call = calloc(1, sizeof(*call));

	if (call == NULL) {
		done(ctx, -ENOMEM);
		return;
	}
	call->bs = bs;
	call->found = found;
	call->done = done;
	call->ctx = ctx;
	spdk_bs_iter_first(bs, list_step, call);
}

struct create_xattrs {
	const struct oriel_xattr *xattrs;
	size_t count;
};

static void
xattr_value(void *arg, const char *name, const void **value, size_t *value_len)
{
	const struct create_xattrs *all = arg;

	*value = NULL;
	*value_len = 0;
	for (size_t i = 0; i < all->count; i++) {
		if (strcmp(all->xattrs[i].name, name) == 0) {
			*value = all->xattrs[i].value;
			*value_len = all->xattrs[i].value_len;
		}
	}
}

void
oriel_blob_create(struct spdk_blob_store *bs, uint64_t clusters, const struct oriel_xattr *xattrs,
		  size_t xattr_count, oriel_blob_id_done cb, void *ctx)
{
	struct create_xattrs all = { xattrs, xattr_count };
	struct spdk_blob_opts o;
	char **names = calloc(xattr_count + 1, sizeof(*names));

	if (names == NULL) {
		cb(ctx, ORIEL_BLOB_ID_NONE, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < xattr_count; i++) {
		names[i] = (char *)xattrs[i].name;
	}
#if SPDK_SINCE(21, 1)
	spdk_blob_opts_init(&o, sizeof(o));
#else
	spdk_blob_opts_init(&o);
#endif
	o.num_clusters = clusters;
	o.thin_provision = false;
	/* A thick blob's clusters are listed in its own pages, which change all at once, with its first
	 * page. Extent pages, made for thin blobs, are written in place before that; v20.07 also loses
	 * the one that falls on metadata page 0, and keeps those of deleted blobs forever. */
	o.use_extent_table = false;
	o.xattrs.count = xattr_count;
	o.xattrs.names = names;
	o.xattrs.ctx = &all;
	o.xattrs.get_value = xattr_value;
	/* The attributes are copied into the blob before this returns. */
	spdk_bs_create_blob_ext(bs, &o, cb, ctx);
	free(names);
}
