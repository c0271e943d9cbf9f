/* SPDX-License-Identifier: Apache-2.0
 * See shim.h. Every difference between DPDK releases is in this file, under RTE_SINCE. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_config.h>
#include <rte_version.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>

#include "shim.h"

/* True when compiling against this release of DPDK or a newer one. */
#define RTE_SINCE(year, month) (RTE_VERSION >= RTE_VERSION_NUM(year, month, 0, 0))

#if !RTE_SINCE(20, 5)
#error "DPDK is older than 20.05, which SPDK v20.07 carries and is the first that Oriel supports: run scripts/bootstrap, or point SPDK_DIR at a newer SPDK"
#endif

_Static_assert(ORIEL_DPDK_MAC_LEN == RTE_ETHER_ADDR_LEN, "one length of a MAC address");
_Static_assert(ORIEL_DPDK_PORT_NONE >= RTE_MAX_ETHPORTS, "no port has the number that means none");
_Static_assert(ORIEL_DPDK_SOCKET_ANY == SOCKET_ID_ANY, "one number for any NUMA node");

/* The ring driver is optional in a build of DPDK, and its header is not always installed. */
int rte_eth_from_rings(const char *name, struct rte_ring *const rx[], unsigned int rx_count,
		struct rte_ring *const tx[], unsigned int tx_count, unsigned int socket)
		__attribute__((weak));

/* DPDK reports most failures of control functions through rte_errno; some forget to set it. */
static int
why(int otherwise)
{
	return rte_errno > 0 ? -rte_errno : -otherwise;
}

/* ---- environment ---- */

uint32_t
oriel_dpdk_release(void)
{
	return RTE_VER_YEAR * 100 + RTE_VER_MONTH;
}

int
oriel_dpdk_eal_init(int argc, char **argv)
{
	rte_errno = 0;
	return rte_eal_init(argc, argv) < 0 ? why(EINVAL) : 0;
}

int
oriel_dpdk_eal_cleanup(void)
{
	return rte_eal_cleanup();
}

/* ---- devices ---- */

int
oriel_dpdk_device_attach(const char *bus, const char *name, const char *args)
{
	int rc = rte_eal_hotplug_add(bus, name, args);

	/* Drivers say -1 for any failure, which is not meant as EPERM. */
	return rc == -1 ? -EINVAL : rc;
}

int
oriel_dpdk_device_detach(const char *bus, const char *name)
{
	return rte_eal_hotplug_remove(bus, name);
}

/* ---- buffers ---- */

struct rte_mempool *
oriel_dpdk_pool_create(const char *name, uint32_t count, uint32_t cache, uint16_t data_room,
		int socket, int *error)
{
	struct rte_mempool *pool;

	rte_errno = 0;
	pool = rte_pktmbuf_pool_create(name, count, cache, 0, data_room, socket);
	*error = pool == NULL ? why(ENOMEM) : 0;
	return pool;
}

void
oriel_dpdk_pool_free(struct rte_mempool *pool)
{
	rte_mempool_free(pool);
}

uint32_t
oriel_dpdk_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

uint32_t
oriel_dpdk_pool_size(const struct rte_mempool *pool)
{
	return pool->size;
}

uint16_t
oriel_dpdk_headroom(void)
{
	return RTE_PKTMBUF_HEADROOM;
}

struct rte_mbuf *
oriel_dpdk_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int
oriel_dpdk_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **bufs, uint32_t count)
{
	return rte_pktmbuf_alloc_bulk(pool, bufs, count);
}

void
oriel_dpdk_mbuf_free(struct rte_mbuf *buf)
{
	rte_pktmbuf_free(buf);
}

void
oriel_dpdk_mbuf_free_bulk(struct rte_mbuf **bufs, uint32_t count)
{
	rte_pktmbuf_free_bulk(bufs, count);
}

uint8_t *
oriel_dpdk_mbuf_data(const struct rte_mbuf *buf)
{
	return rte_pktmbuf_mtod(buf, uint8_t *);
}

uint16_t
oriel_dpdk_mbuf_segment_len(const struct rte_mbuf *buf)
{
	return rte_pktmbuf_data_len(buf);
}

uint32_t
oriel_dpdk_mbuf_len(const struct rte_mbuf *buf)
{
	return rte_pktmbuf_pkt_len(buf);
}

uint16_t
oriel_dpdk_mbuf_segments(const struct rte_mbuf *buf)
{
	return buf->nb_segs;
}

uint16_t
oriel_dpdk_mbuf_tailroom(const struct rte_mbuf *buf)
{
	while (buf->next != NULL) {
		buf = buf->next;
	}
	return rte_pktmbuf_tailroom(buf);
}

uint8_t *
oriel_dpdk_mbuf_append(struct rte_mbuf *buf, uint16_t len)
{
	return (uint8_t *)rte_pktmbuf_append(buf, len);
}

int
oriel_dpdk_mbuf_trim(struct rte_mbuf *buf, uint16_t len)
{
	return rte_pktmbuf_trim(buf, len) < 0 ? -EINVAL : 0;
}

int
oriel_dpdk_mbuf_read(const struct rte_mbuf *buf, uint32_t offset, uint32_t len, void *out)
{
	const void *from;

	if (offset > UINT32_MAX - len) {
		return -ERANGE;
	}
	/* Copies only where the bytes span segments, and otherwise points into the buffer. */
	from = rte_pktmbuf_read(buf, offset, len, out);
	if (from == NULL) {
		return -ERANGE;
	}
	if (from != out) {
		memcpy(out, from, len);
	}
	return 0;
}

/* ---- ports: finding and describing ---- */

uint16_t
oriel_dpdk_port_count(void)
{
	return rte_eth_dev_count_avail();
}

uint16_t
oriel_dpdk_port_next(uint16_t from)
{
	uint64_t next = rte_eth_find_next_owned_by(from, RTE_ETH_DEV_NO_OWNER);

	return next < RTE_MAX_ETHPORTS ? (uint16_t)next : ORIEL_DPDK_PORT_NONE;
}

int
oriel_dpdk_port_by_name(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port);
}

int
oriel_dpdk_port_by_mac(const uint8_t mac[ORIEL_DPDK_MAC_LEN], uint16_t *port)
{
	struct rte_ether_addr address;
	uint16_t at;

	RTE_ETH_FOREACH_DEV(at) {
		if (rte_eth_macaddr_get(at, &address) == 0 &&
		    memcmp(address.addr_bytes, mac, ORIEL_DPDK_MAC_LEN) == 0) {
			*port = at;
			return 0;
		}
	}
	return -ENODEV;
}

int
oriel_dpdk_port_info(uint16_t port, struct oriel_dpdk_port_info *info)
{
	char name[RTE_ETH_NAME_MAX_LEN] = "";
	struct rte_eth_dev_info device;
	struct rte_ether_addr address;
	int rc;

	memset(info, 0, sizeof(*info));
	rc = rte_eth_dev_info_get(port, &device);
	if (rc == 0) {
		rc = rte_eth_macaddr_get(port, &address);
	}
	if (rc == 0) {
		rc = rte_eth_dev_get_name_by_port(port, name);
	}
	if (rc != 0) {
		return rc;
	}
	snprintf(info->name, sizeof(info->name), "%s", name);
	snprintf(info->driver, sizeof(info->driver), "%s",
		 device.driver_name != NULL ? device.driver_name : "");
	memcpy(info->mac, address.addr_bytes, ORIEL_DPDK_MAC_LEN);
	info->max_rx_queues = device.max_rx_queues;
	info->max_tx_queues = device.max_tx_queues;
	info->socket = rte_eth_dev_socket_id(port);
	return 0;
}

int
oriel_dpdk_port_link(uint16_t port, struct oriel_dpdk_link *link)
{
	struct rte_eth_link now;
	int rc;

	memset(&now, 0, sizeof(now));
	rc = rte_eth_link_get_nowait(port, &now);
	link->speed_mbps = now.link_speed;
	link->up = now.link_status;
	link->full_duplex = now.link_duplex;
	return rc;
}

int
oriel_dpdk_port_stats(uint16_t port, struct oriel_dpdk_stats *stats)
{
	struct rte_eth_stats now;
	int rc;

	memset(&now, 0, sizeof(now));
	rc = rte_eth_stats_get(port, &now);
	stats->rx_packets = now.ipackets;
	stats->tx_packets = now.opackets;
	stats->rx_bytes = now.ibytes;
	stats->tx_bytes = now.obytes;
	stats->rx_missed = now.imissed;
	stats->rx_errors = now.ierrors;
	stats->tx_errors = now.oerrors;
	stats->rx_no_buffer = now.rx_nombuf;
	return rc;
}

int
oriel_dpdk_port_stats_reset(uint16_t port)
{
	return rte_eth_stats_reset(port);
}

/* ---- ports: life ---- */

int
oriel_dpdk_port_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues)
{
	/* All zero: no offloads, one traffic class, the device's own MTU. */
	struct rte_eth_conf conf;

	memset(&conf, 0, sizeof(conf));
	return rte_eth_dev_configure(port, rx_queues, tx_queues, &conf);
}

int
oriel_dpdk_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx)
{
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx);
}

int
oriel_dpdk_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool)
{
	return rte_eth_rx_queue_setup(port, queue, descriptors, rte_eth_dev_socket_id(port), NULL, pool);
}

int
oriel_dpdk_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors)
{
	return rte_eth_tx_queue_setup(port, queue, descriptors, rte_eth_dev_socket_id(port), NULL);
}

int
oriel_dpdk_port_mtu(uint16_t port, uint16_t *mtu)
{
	return rte_eth_dev_get_mtu(port, mtu);
}

int
oriel_dpdk_port_set_mtu(uint16_t port, uint16_t mtu)
{
	return rte_eth_dev_set_mtu(port, mtu);
}

int
oriel_dpdk_port_set_promiscuous(uint16_t port, bool on)
{
	return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int
oriel_dpdk_port_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

int
oriel_dpdk_port_stop(uint16_t port)
{
#if RTE_SINCE(20, 11)
	return rte_eth_dev_stop(port);
#else
	rte_eth_dev_stop(port);
	return 0;
#endif
}

int
oriel_dpdk_port_close(uint16_t port)
{
#if RTE_SINCE(20, 11)
	return rte_eth_dev_close(port);
#else
	rte_eth_dev_close(port);
	return 0;
#endif
}

/* ---- ports: traffic ---- */

uint16_t
oriel_dpdk_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, bufs, count);
}

uint16_t
oriel_dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, bufs, count);
}

/* ---- ring ports ---- */

bool
oriel_dpdk_has_ring_driver(void)
{
	return rte_eth_from_rings != NULL;
}

struct rte_ring *
oriel_dpdk_ring_create(const char *name, uint32_t slots, int socket, int *error)
{
	struct rte_ring *ring;

	rte_errno = 0;
	ring = rte_ring_create(name, slots, socket, RING_F_SP_ENQ | RING_F_SC_DEQ);
	*error = ring == NULL ? why(ENOMEM) : 0;
	return ring;
}

void
oriel_dpdk_ring_free(struct rte_ring *ring)
{
	void *left;

	while (rte_ring_dequeue(ring, &left) == 0) {
		rte_pktmbuf_free(left);
	}
	rte_ring_free(ring);
}

int
oriel_dpdk_port_from_rings(const char *name, struct rte_ring *rx, struct rte_ring *tx, int socket)
{
	int port;

	if (rte_eth_from_rings == NULL) {
		return -ENOTSUP;
	}
	rte_errno = 0;
	port = rte_eth_from_rings(name, &rx, 1, &tx, 1, (unsigned int)socket);
	return port < 0 ? why(EINVAL) : port;
}
