/* SPDX-License-Identifier: Apache-2.0
 * The kinds of request, ours and SPDK's: SPDK's numbers are not promised to stay. */
#ifndef ORIEL_IO_TYPE_H
#define ORIEL_IO_TYPE_H

#define ORIEL_IO_TYPES(X) \
	X(READ) X(WRITE) X(UNMAP) X(FLUSH) X(RESET) X(NVME_ADMIN) X(NVME_IO) X(WRITE_ZEROES) X(ABORT)

static inline enum spdk_bdev_io_type
io_type_to_spdk(int type)
{
	switch (type) {
#define X(name) case ORIEL_IO_##name: return SPDK_BDEV_IO_TYPE_##name;
	ORIEL_IO_TYPES(X)
#undef X
	default:
		return SPDK_BDEV_IO_TYPE_INVALID;
	}
}

static inline int
io_type_from_spdk(enum spdk_bdev_io_type type)
{
	switch (type) {
#define X(name) case SPDK_BDEV_IO_TYPE_##name: return ORIEL_IO_##name;
	ORIEL_IO_TYPES(X)
#undef X
#if SPDK_SINCE(24, 1)
	/* The NVMe-oF target's way of passing a command through: the same, with a list of buffers. */
	case SPDK_BDEV_IO_TYPE_NVME_IOV_MD: return ORIEL_IO_NVME_IO;
#endif
	default:
		return ORIEL_IO_OTHER;
	}
}

#endif
