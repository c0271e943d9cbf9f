/* SPDX-License-Identifier: Apache-2.0
 * The blobstore's part of oriel.h, which includes this file at its end. */
#ifndef ORIEL_BLOB_H
#define ORIEL_BLOB_H

struct spdk_bs_dev;
struct spdk_blob_store;
struct spdk_blob;
struct spdk_xattr_names;

/* SPDK_BLOBSTORE_TYPE_LENGTH and SPDK_BLOBID_INVALID. */
#define ORIEL_BLOB_TYPE_BYTES 16
#define ORIEL_BLOB_ID_NONE UINT64_MAX

/* ---- the device below a blobstore ---- */

/* Belongs to the caller, and must stay until released was called. */
struct oriel_bs_dev_watch {
	oriel_bdev_event_fn event;
	/* The device is closed and no longer claimed. */
	void (*released)(void *ctx);
	void *ctx;
	struct spdk_bs_dev *dev;
	struct spdk_bdev *bdev;
	void (*destroy)(struct spdk_bs_dev *dev);
	struct oriel_bs_dev_watch *next;
};
/* Calls back once nobody looks into new devices any more: who does has them open for writing. */
int oriel_bdev_examined(void (*cb)(void *), void *ctx);
/* Opens a block device and claims it. Failing, it calls neither function of the watch. */
int oriel_bs_dev_open(const char *name, struct oriel_bs_dev_watch *watch, struct spdk_bs_dev **dev);

/* ---- the blobstore ---- */

struct oriel_bs_opts {
	uint8_t type[ORIEL_BLOB_TYPE_BYTES];
	uint32_t cluster_bytes;
	uint32_t md_pages;
	uint32_t max_channel_ops;
};
typedef void (*oriel_bs_ready)(void *ctx, struct spdk_blob_store *bs, int rc);
/* Both take the device over, also when they fail. */
void oriel_bs_init(struct spdk_bs_dev *dev, const struct oriel_bs_opts *opts, oriel_bs_ready cb, void *ctx);
void oriel_bs_load(struct spdk_bs_dev *dev, const struct oriel_bs_opts *opts, oriel_bs_ready cb, void *ctx);
void spdk_bs_destroy(struct spdk_blob_store *bs, oriel_done cb, void *ctx);
void spdk_bs_unload(struct spdk_blob_store *bs, oriel_done cb, void *ctx);
uint64_t spdk_bs_get_cluster_size(struct spdk_blob_store *bs);
uint64_t spdk_bs_get_io_unit_size(struct spdk_blob_store *bs);
uint64_t spdk_bs_free_cluster_count(struct spdk_blob_store *bs);
uint64_t spdk_bs_total_data_cluster_count(struct spdk_blob_store *bs);
struct spdk_io_channel *spdk_bs_alloc_io_channel(struct spdk_blob_store *bs);
void spdk_bs_free_io_channel(struct spdk_io_channel *channel);

typedef void (*oriel_blob_id_done)(void *ctx, uint64_t id, int rc);
void spdk_bs_set_super(struct spdk_blob_store *bs, uint64_t id, oriel_done cb, void *ctx);
void spdk_bs_get_super(struct spdk_blob_store *bs, oriel_blob_id_done cb, void *ctx);
/* Calls found for each blob that can be opened, then done. */
void oriel_bs_list(struct spdk_blob_store *bs, void (*found)(void *ctx, uint64_t id, uint64_t clusters),
		   oriel_done done, void *ctx);

/* ---- blobs: metadata, on the thread that loaded the blobstore ---- */

struct oriel_xattr {
	const char *name;
	const void *value;
	size_t value_len;
};
/* Names and values are copied before the call returns. */
void oriel_blob_create(struct spdk_blob_store *bs, uint64_t clusters, const struct oriel_xattr *xattrs,
		       size_t xattr_count, oriel_blob_id_done cb, void *ctx);
void spdk_bs_delete_blob(struct spdk_blob_store *bs, uint64_t id, oriel_done cb, void *ctx);
typedef void (*oriel_blob_ready)(void *ctx, struct spdk_blob *blob, int rc);
void spdk_bs_open_blob(struct spdk_blob_store *bs, uint64_t id, oriel_blob_ready cb, void *ctx);
void spdk_blob_close(struct spdk_blob *blob, oriel_done cb, void *ctx);
void spdk_blob_resize(struct spdk_blob *blob, uint64_t clusters, oriel_done cb, void *ctx);
void spdk_blob_sync_md(struct spdk_blob *blob, oriel_done cb, void *ctx);
uint64_t spdk_blob_get_num_clusters(struct spdk_blob *blob);
uint64_t spdk_blob_get_num_io_units(struct spdk_blob *blob);
int spdk_blob_set_xattr(struct spdk_blob *blob, const char *name, const void *value, uint16_t value_len);
int spdk_blob_remove_xattr(struct spdk_blob *blob, const char *name);
int spdk_blob_get_xattr_value(struct spdk_blob *blob, const char *name, const void **value, size_t *value_len);
int spdk_blob_get_xattr_names(struct spdk_blob *blob, struct spdk_xattr_names **names);
uint32_t spdk_xattr_names_get_count(struct spdk_xattr_names *names);
const char *spdk_xattr_names_get_name(struct spdk_xattr_names *names, uint32_t index);
void spdk_xattr_names_free(struct spdk_xattr_names *names);

/* Where on the device a unit of a blob is: asks the blobstore for that unit, and takes the request where it
 * would have gone to the device. False if there is no such request, because the unit is nowhere, requests to the
 * blob are held up, or there is no memory. On the thread that loaded the blobstore, which nobody else uses. */
bool oriel_blob_place(struct spdk_bs_dev *dev, struct spdk_blob *blob, struct spdk_io_channel *ch, uint64_t unit,
		      uint64_t *device_block);

/* ---- blobs: data; the callback may come before the call returns ---- */

void spdk_blob_io_read(struct spdk_blob *blob, struct spdk_io_channel *ch, void *buf, uint64_t offset,
		       uint64_t count, oriel_done cb, void *ctx);
void spdk_blob_io_write(struct spdk_blob *blob, struct spdk_io_channel *ch, void *buf, uint64_t offset,
			uint64_t count, oriel_done cb, void *ctx);
void spdk_blob_io_readv(struct spdk_blob *blob, struct spdk_io_channel *ch, struct iovec *iov, int iovcnt,
			uint64_t offset, uint64_t count, oriel_done cb, void *ctx);
void spdk_blob_io_writev(struct spdk_blob *blob, struct spdk_io_channel *ch, struct iovec *iov, int iovcnt,
			 uint64_t offset, uint64_t count, oriel_done cb, void *ctx);
void spdk_blob_io_unmap(struct spdk_blob *blob, struct spdk_io_channel *ch, uint64_t offset, uint64_t count,
			oriel_done cb, void *ctx);
void spdk_blob_io_write_zeroes(struct spdk_blob *blob, struct spdk_io_channel *ch, uint64_t offset,
			       uint64_t count, oriel_done cb, void *ctx);

uint32_t spdk_crc32c_update(const void *buf, size_t len, uint32_t crc);

#endif
