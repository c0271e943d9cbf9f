/* SPDX-License-Identifier: Apache-2.0
 *
 * The one header that bindgen reads. DPDK's structs stay opaque, and what DPDK offers as static
 * inline functions (bursts, mbufs) becomes callable here. shim.c absorbs what differs between
 * DPDK 20.05 and 26.03.
 *
 * Unless it says otherwise, a function that returns int returns 0 or more for success and a
 * negative errno for failure. Ports are DPDK's port numbers. */
#ifndef ORIEL_DPDK_SHIM_H
#define ORIEL_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;
struct rte_ring;

#define ORIEL_DPDK_MAC_LEN 6

/** No port; what a search returns when it has reached the end. */
#define ORIEL_DPDK_PORT_NONE 0xffffu

/** Any NUMA node. */
#define ORIEL_DPDK_SOCKET_ANY (-1)

/* ---- environment ---- */

/** Year * 100 + month of the DPDK that this was compiled against, as 2005 for 20.05. */
uint32_t oriel_dpdk_release(void);
/** Starts the EAL, once per process. The strings must live as long as the process: DPDK keeps pointers. */
int oriel_dpdk_eal_init(int argc, char **argv);
int oriel_dpdk_eal_cleanup(void);

/* ---- devices ---- */

/** Attaches a device: bus "vdev" with a driver's name ("net_memif0") and arguments, or bus "pci". */
int oriel_dpdk_device_attach(const char *bus, const char *name, const char *args);
int oriel_dpdk_device_detach(const char *bus, const char *name);

/* ---- buffers ---- */

/** Creates a pool of packet buffers. data_room is the bytes of one buffer, headroom included.
 * cache is the number of buffers kept aside for each EAL thread. NULL on failure, *error then says why. */
struct rte_mempool *oriel_dpdk_pool_create(const char *name, uint32_t count, uint32_t cache,
		uint16_t data_room, int socket, int *error);
void oriel_dpdk_pool_free(struct rte_mempool *pool);
/** Buffers that could be allocated now, caches of all threads included. Exact while nobody uses the pool. */
uint32_t oriel_dpdk_pool_available(const struct rte_mempool *pool);
uint32_t oriel_dpdk_pool_size(const struct rte_mempool *pool);
/** Bytes kept free before the data of a new buffer; data_room must exceed it. */
uint16_t oriel_dpdk_headroom(void);

/** One empty buffer with one reference, or NULL when the pool has none left. */
struct rte_mbuf *oriel_dpdk_mbuf_alloc(struct rte_mempool *pool);
/** All of count buffers or none. */
int oriel_dpdk_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **bufs, uint32_t count);
/** Frees a buffer and those chained to it. */
void oriel_dpdk_mbuf_free(struct rte_mbuf *buf);
void oriel_dpdk_mbuf_free_bulk(struct rte_mbuf **bufs, uint32_t count);
/** The bytes of the first segment. */
uint8_t *oriel_dpdk_mbuf_data(const struct rte_mbuf *buf);
uint16_t oriel_dpdk_mbuf_segment_len(const struct rte_mbuf *buf);
/** Bytes of all segments. */
uint32_t oriel_dpdk_mbuf_len(const struct rte_mbuf *buf);
uint16_t oriel_dpdk_mbuf_segments(const struct rte_mbuf *buf);
/** Bytes that could still be appended to the last segment. */
uint16_t oriel_dpdk_mbuf_tailroom(const struct rte_mbuf *buf);
/** Makes the frame longer by len bytes and returns where they start, or NULL when they do not fit. */
uint8_t *oriel_dpdk_mbuf_append(struct rte_mbuf *buf, uint16_t len);
/** Takes len bytes off the end of the last segment. */
int oriel_dpdk_mbuf_trim(struct rte_mbuf *buf, uint16_t len);
/** Copies len bytes from offset, across segments. */
int oriel_dpdk_mbuf_read(const struct rte_mbuf *buf, uint32_t offset, uint32_t len, void *out);

/* ---- ports: finding and describing ---- */

uint16_t oriel_dpdk_port_count(void);
/** The first port at or after from, or ORIEL_DPDK_PORT_NONE. */
uint16_t oriel_dpdk_port_next(uint16_t from);
int oriel_dpdk_port_by_name(const char *name, uint16_t *port);
int oriel_dpdk_port_by_mac(const uint8_t mac[ORIEL_DPDK_MAC_LEN], uint16_t *port);

struct oriel_dpdk_port_info {
	/** The device's name, as "net_memif0" or a PCI address. */
	char name[64];
	/** The driver's name, as "net_memif". */
	char driver[64];
	uint8_t mac[ORIEL_DPDK_MAC_LEN];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	/** NUMA node, or ORIEL_DPDK_SOCKET_ANY. */
	int socket;
};
int oriel_dpdk_port_info(uint16_t port, struct oriel_dpdk_port_info *info);

struct oriel_dpdk_link {
	/** Megabits per second; 0 none, UINT32_MAX unknown. */
	uint32_t speed_mbps;
	bool up;
	bool full_duplex;
};
/** What the port says now, without waiting. */
int oriel_dpdk_port_link(uint16_t port, struct oriel_dpdk_link *link);

struct oriel_dpdk_stats {
	uint64_t rx_packets;
	uint64_t tx_packets;
	uint64_t rx_bytes;
	uint64_t tx_bytes;
	/** Dropped by the device because the queue was full. */
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t tx_errors;
	/** Dropped because the pool had no buffer. */
	uint64_t rx_no_buffer;
};
int oriel_dpdk_port_stats(uint16_t port, struct oriel_dpdk_stats *stats);
int oriel_dpdk_port_stats_reset(uint16_t port);

/* ---- ports: life ---- */

int oriel_dpdk_port_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues);
/** Brings the wished numbers of descriptors into what the device takes. */
int oriel_dpdk_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);
int oriel_dpdk_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors,
		struct rte_mempool *pool);
int oriel_dpdk_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors);
int oriel_dpdk_port_mtu(uint16_t port, uint16_t *mtu);
int oriel_dpdk_port_set_mtu(uint16_t port, uint16_t mtu);
int oriel_dpdk_port_set_promiscuous(uint16_t port, bool on);
int oriel_dpdk_port_start(uint16_t port);
int oriel_dpdk_port_stop(uint16_t port);
int oriel_dpdk_port_close(uint16_t port);

/* ---- ports: traffic; one thread per queue ---- */

/** Up to count frames that have come in. */
uint16_t oriel_dpdk_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t count);
/** Hands over frames from the front of bufs; returns how many. The rest stays the caller's. */
uint16_t oriel_dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t count);

/* ---- ring ports: two ports of one process, joined back to back ---- */

/** Whether the ring driver is part of this program. */
bool oriel_dpdk_has_ring_driver(void);
/** A ring with one producer and one consumer. slots is a power of two; one stays empty. */
struct rte_ring *oriel_dpdk_ring_create(const char *name, uint32_t slots, int socket, int *error);
/** Frees the frames still in the ring, then the ring. */
void oriel_dpdk_ring_free(struct rte_ring *ring);
/** A port named "net_ring_<name>" that receives from rx and sends to tx: its number, or a negative errno. */
int oriel_dpdk_port_from_rings(const char *name, struct rte_ring *rx, struct rte_ring *tx, int socket);

#endif
