/* SPDX-License-Identifier: Apache-2.0
 *
 * The one header that bindgen reads. SPDK's own structs stay opaque here, so that the Rust side
 * is the same for every release from v20.07 to v26.05; what differs between them is absorbed by
 * the .c files beside this one. Functions whose prototype is the same in all those releases are
 * declared here as they are and called without a detour; the compiler checks each declaration
 * against SPDK's, because every .c file includes both.
 */
#ifndef ORIEL_SHIM_H
#define ORIEL_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct spdk_thread;
struct spdk_poller;
struct spdk_io_channel;
struct spdk_bdev;
struct spdk_bdev_desc;
struct spdk_bdev_io;

/* Calls back once with a negative errno or 0. */
typedef void (*oriel_done)(void *ctx, int rc);

/* ---- version and log ---- */

const char *oriel_spdk_version(void);
/* level: 0 error, 1 warning, 2 notice, 3 info, 4 debug. The message is valid during the call only. */
typedef void (*oriel_log_fn)(int level, const char *file, int line, const char *func, const char *msg);
void oriel_log_open(oriel_log_fn fn, int level);

/* ---- environment ---- */

struct oriel_env_opts {
	const char *name;
	const char *core_mask;
	const char *hugedir;
	const char *const *pci_allowed;
	size_t pci_allowed_count;
	int main_core;
	int memory_mib;
	bool no_pci;
	bool no_huge;
};
int oriel_env_init(const struct oriel_env_opts *opts);
void oriel_env_fini(void);
uint32_t spdk_env_get_current_core(void);
uint32_t spdk_env_get_first_core(void);
uint32_t spdk_env_get_next_core(uint32_t prev_core);
uint64_t spdk_get_ticks(void);
uint64_t spdk_get_ticks_hz(void);
int spdk_env_thread_launch_pinned(uint32_t core, int (*fn)(void *), void *arg);
void spdk_env_thread_wait_all(void);

/* ---- memory that devices may read and write ---- */

void *oriel_dma_alloc(size_t size, size_t align);
void oriel_dma_free(void *buf);

/* ---- SPDK threads ---- */

int oriel_thread_lib_init(void);
void spdk_thread_lib_fini(void);
struct spdk_thread *oriel_thread_create(const char *name);
void spdk_set_thread(struct spdk_thread *thread);
struct spdk_thread *spdk_get_thread(void);
int spdk_thread_poll(struct spdk_thread *thread, uint32_t max_msgs, uint64_t now);
int spdk_thread_exit(struct spdk_thread *thread);
bool spdk_thread_is_exited(struct spdk_thread *thread);
bool spdk_thread_is_idle(struct spdk_thread *thread);
void spdk_thread_destroy(struct spdk_thread *thread);
int oriel_thread_send_msg(const struct spdk_thread *thread, void (*fn)(void *), void *ctx);
struct spdk_poller *spdk_poller_register_named(int (*fn)(void *), void *arg, uint64_t period_us,
		const char *name);
void spdk_poller_unregister(struct spdk_poller **poller);
void spdk_put_io_channel(struct spdk_io_channel *ch);

/* ---- subsystems, and the JSON-RPC server that configures them ---- */

void oriel_subsystems_init(oriel_done cb, void *ctx);
void oriel_subsystems_fini(void (*cb)(void *), void *ctx);
void *oriel_rpc_listen(const char *path);
void oriel_rpc_poll(void *server);
void oriel_rpc_close(void *server);

/* ---- block devices, as their user ---- */

enum oriel_bdev_event { ORIEL_BDEV_REMOVED = 0, ORIEL_BDEV_RESIZED = 1, ORIEL_BDEV_OTHER = 2 };
typedef void (*oriel_bdev_event_fn)(void *ctx, int event);
/* On success *handle must be given to oriel_bdev_close with the descriptor. */
int oriel_bdev_open(const char *name, bool write, oriel_bdev_event_fn fn, void *ctx,
		    struct spdk_bdev_desc **desc, void **handle);
void oriel_bdev_close(struct spdk_bdev_desc *desc, void *handle);
struct spdk_bdev *spdk_bdev_desc_get_bdev(struct spdk_bdev_desc *desc);
struct spdk_io_channel *spdk_bdev_get_io_channel(struct spdk_bdev_desc *desc);
struct spdk_bdev *spdk_bdev_get_by_name(const char *name);
struct spdk_bdev *spdk_bdev_first(void);
struct spdk_bdev *spdk_bdev_next(struct spdk_bdev *prev);

struct oriel_bdev_info {
	const char *name;
	const char *product;
	uint64_t blocks;
	uint32_t block_size;
	uint32_t write_unit_blocks;
	uint32_t optimal_boundary_blocks;
	size_t buffer_align;
	bool write_cache;
	uint8_t uuid[16];
};
void oriel_bdev_info(const struct spdk_bdev *bdev, struct oriel_bdev_info *info);

enum oriel_io_type {
	ORIEL_IO_READ = 1,
	ORIEL_IO_WRITE = 2,
	ORIEL_IO_UNMAP = 3,
	ORIEL_IO_FLUSH = 4,
	ORIEL_IO_RESET = 5,
	ORIEL_IO_NVME_ADMIN = 6,
	ORIEL_IO_NVME_IO = 7,
	ORIEL_IO_WRITE_ZEROES = 8,
	ORIEL_IO_ABORT = 9,
	ORIEL_IO_OTHER = 100,
};
bool oriel_bdev_supports(struct spdk_bdev *bdev, int oriel_io_type);

typedef void (*oriel_bdev_io_cb)(struct spdk_bdev_io *io, bool success, void *ctx);
int spdk_bdev_read_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch, void *buf,
			  uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_write_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch, void *buf,
			   uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_readv_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch, struct iovec *iov,
			   int iovcnt, uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_writev_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch, struct iovec *iov,
			    int iovcnt, uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_write_zeroes_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
				  uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_unmap_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
			   uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_flush_blocks(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
			   uint64_t offset_blocks, uint64_t num_blocks, oriel_bdev_io_cb cb, void *ctx);
int spdk_bdev_reset(struct spdk_bdev_desc *desc, struct spdk_io_channel *ch, oriel_bdev_io_cb cb, void *ctx);
void spdk_bdev_free_io(struct spdk_bdev_io *io);
void oriel_bdev_io_nvme_status(const struct spdk_bdev_io *io, uint32_t *cdw0, int *sct, int *sc);
/* The only refusal that calls back later: when this channel can take another request. */
int oriel_bdev_wait(struct spdk_bdev *bdev, struct spdk_io_channel *ch, void (*fn)(void *), void *ctx);

struct oriel_bdev_stat {
	uint64_t bytes_read, reads, bytes_written, writes, bytes_unmapped, unmaps;
	uint64_t read_latency_ticks, write_latency_ticks, unmap_latency_ticks;
};
int oriel_bdev_stat(struct spdk_bdev *bdev, struct oriel_bdev_stat *out, oriel_done cb, void *ctx);

/* ---- block devices, as their maker ---- */

struct oriel_bdev_ops {
	/* The device is gone: the context may be freed. */
	void (*destruct)(void *ctx);
	bool (*supports)(void *ctx, int oriel_io_type);
	/* Per-channel state of the device on the calling SPDK thread. */
	void *(*channel_create)(void *ctx);
	void (*channel_destroy)(void *ctx, void *channel);
	/* A read has its buffer by now: the shim asks SPDK for one where the caller brought none. */
	void (*submit)(void *ctx, void *channel, struct spdk_bdev_io *io);
};
/* Of an NVMe command, in the Commands Supported and Effects log. */
enum oriel_effect { ORIEL_EFFECT_SUPPORTED = 1, ORIEL_EFFECT_CHANGES_CONTENT = 2 };
struct oriel_bdev_spec {
	const char *name;
	const char *product;
	/* By the opcodes of NVMe I/O commands: their effects. */
	const uint32_t *effects;
	uint64_t blocks;
	uint32_t block_size;
	uint32_t optimal_boundary_blocks;
	bool write_cache;
	uint8_t uuid[16];
};
struct oriel_bdev;
int oriel_bdev_register(const struct oriel_bdev_spec *spec, const struct oriel_bdev_ops *ops, void *ctx,
			struct oriel_bdev **out);
/* Calls back once every open descriptor is closed; destruct has run by then. */
void oriel_bdev_unregister(struct oriel_bdev *bdev, oriel_done cb, void *ctx);

struct oriel_io {
	int type;
	int iovcnt;
	struct iovec *iov;
	uint64_t offset_blocks;
	uint64_t num_blocks;
	/* NVMe pass-through: the 64-byte command and its one buffer. */
	const void *nvme_cmd;
	void *nvme_buf;
	uint64_t nvme_len;
};
void oriel_io_get(struct spdk_bdev_io *io, struct oriel_io *out);
void oriel_io_complete(struct spdk_bdev_io *io, bool success);
void oriel_io_complete_nvme(struct spdk_bdev_io *io, uint32_t cdw0, int sct, int sc);

#include "oriel_nvmf.h"
#include "oriel_blob.h"

#endif
